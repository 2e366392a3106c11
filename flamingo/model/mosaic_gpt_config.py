"""MosaicGPTConfig: the config of MosaicML's MPT-1B, ``model_type: mosaic_gpt``."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from flamingo.utils.errors import UserError

#: The only supported value of each option of MosaicML's code that changes the architecture.
_FIXED: dict[str, Any] = {
    "alibi": True,
    "attn_clip_qkv": None,
    "attn_qk_ln": True,
    "logit_scale": None,
    "no_bias": True,
    "prefix_lm": False,
    "softmax_scale": None,
}
#: Rates of dropout: a frozen language model has none.
_DROPOUT_RATES = ("attn_pdrop", "emb_pdrop", "resid_pdrop")


class MosaicGPTConfig(PreTrainedConfig):
    """Configuration of :class:`flamingo.model.mosaic_gpt.MosaicGPTForCausalLM`, with the names of MosaicML's config.

    The defaults are the values of ``mosaicml/mpt-1b-redpajama-200b``.
    """

    model_type = "mosaic_gpt"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "initializer_range": "init_std",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    d_model: int = 2048
    n_heads: int = 16
    n_layers: int = 24
    mlp_ratio: int = 4
    #: The length of the texts that the model was trained on.
    max_seq_len: int = 2048
    vocab_size: int = 50368
    #: The largest exponent of ALiBi: the smallest slope is 2 to the power of minus this.
    alibi_bias_max: int = 8
    init_std: float = 0.02
    use_cache: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def check(self) -> None:
        """Checks that our decoder computes what a model of this config does.

        Raises:
            UserError: If it does not; the error names the key.
        """
        if self.d_model % self.n_heads != 0:
            raise UserError(f"d_model={self.d_model} is not a multiple of n_heads={self.n_heads}")
        for key, value in _FIXED.items():
            given = getattr(self, key, value)
            if given != value:
                raise UserError(f"mosaic_gpt: {key}={given} is not supported: {key} is always {value}")
        for key in _DROPOUT_RATES:
            rate = getattr(self, key, 0.0)
            if rate != 0.0:
                raise UserError(f"mosaic_gpt: {key}={rate} is not supported: the decoder has no dropout")


AutoConfig.register(MosaicGPTConfig.model_type, MosaicGPTConfig)
