"""MosaicML's MPT-1B (``model_type: mosaic_gpt``), the language model of OpenFlamingo-3B, which transformers lacks.

It is MPT with a LayerNorm over the whole width of queries and keys, before the heads are split. No layer has a bias,
norms included; the feed-forward has the exact GELU; the output head is tied to the embeddings. Names of modules are
those of MosaicML's checkpoints.

ALiBi (arXiv 2108.12409) subtracts ``slope * (query position - key position)`` from each score. Here it is a part of
queries and keys (:func:`alibi_features`), so the cache holds the positions of its keys. Any attention mask, packed
documents and a prompt that several beams share therefore work as with rotary positions.
"""

import math
from typing import Any, ClassVar

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from flamingo.model.mosaic_gpt_config import MosaicGPTConfig

#: Channels that ALiBi adds to a head's queries and keys: four are used, and fused kernels need a multiple of eight.
_ALIBI_CHANNELS = 8
#: Positions are two digits of this base: bfloat16 represents whole numbers up to 256 exactly.
_BASE = 256


def alibi_slopes(num_heads: int, bias_max: int, device: torch.device) -> Float[Tensor, " k"]:
    """Returns the slope of each head, for any number of heads: those of the next power of two, every second one first.

    Args:
        num_heads: The number of heads.
        bias_max: The exponents of the slopes rise to this value in equal steps.
        device: The device of the result.
    """
    power = 2 ** math.ceil(math.log2(num_heads))
    slopes = 2.0 ** -(torch.arange(1, power + 1, device=device) * bias_max / power)
    if power == num_heads:
        return slopes
    return torch.cat([slopes[1::2], slopes[::2]])[:num_heads]


def alibi_features(
    position_ids: Int[Tensor, "b t"], slopes: Float[Tensor, " k"], dtype: torch.dtype
) -> tuple[Float[Tensor, "b k t channels"], Float[Tensor, "b k t channels"]]:
    """Returns channels of queries and of keys whose product is ``slope * (key position - query position)``."""
    digits = torch.stack([position_ids // _BASE, position_ids % _BASE], dim=-1).to(dtype)
    weights = torch.stack([slopes * _BASE, slopes], dim=-1).to(dtype)
    b, t, _ = digits.shape
    by_head = repeat(digits, "b t digit -> b k t digit", k=len(slopes))
    by_token = repeat(weights, "k digit -> b k t digit", b=b, t=t)
    spare = _ALIBI_CHANNELS - 4
    queries = F.pad(torch.cat([by_token, by_head], dim=-1), (0, spare))
    keys = F.pad(torch.cat([by_head, -by_token], dim=-1), (0, spare))
    return queries, keys


def unfused_attention(
    module: nn.Module,
    query: Float[Tensor, "b k t e"],
    key: Float[Tensor, "b k s e"],
    value: Float[Tensor, "b k s value_width"],
    attention_mask: Float[Tensor, "_ 1 t s"] | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Float[Tensor, "b t k value_width"], Float[Tensor, "b k t s"]]:
    """Returns the outputs and the weights of attention, without a fused kernel."""
    scores = einsum(query, key, "b k t e, b k s e -> b k t s") * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return einsum(weights, value, "b k t s, b k s e -> b t k e"), weights


class MosaicGPTAttention(nn.Module):
    """Causal self-attention with normalised queries and keys, and ALiBi."""

    is_causal = True

    def __init__(self, config: MosaicGPTConfig, layer_idx: int) -> None:
        super().__init__()
        width = config.d_model
        self.config, self.layer_idx = config, layer_idx
        self.num_heads = config.n_heads
        self.scaling = (width // config.n_heads) ** -0.5
        self.Wqkv = nn.Linear(width, 3 * width, bias=False)
        self.q_ln = nn.LayerNorm(width, bias=False)
        self.k_ln = nn.LayerNorm(width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "b t d"],
        alibi: tuple[Float[Tensor, "b k t channels"], Float[Tensor, "b k t channels"]],
        attention_mask: Any,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b k t s"] | None]:
        """Returns the outputs, and the weights if the kernel stores them."""
        query, key, value = self.Wqkv(hidden).chunk(3, dim=-1)
        queries, keys, values = (
            rearrange(states, "b t (k e) -> b k t e", k=self.num_heads)
            for states in (self.q_ln(query), self.k_ln(key), value)
        )
        query_alibi, key_alibi = alibi
        queries = torch.cat([queries, query_alibi.to(queries.dtype)], dim=-1)
        keys = torch.cat([keys, key_alibi.to(keys.dtype)], dim=-1)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, unfused_attention)
        outputs, weights = attend(self, queries, keys, values, attention_mask, scaling=self.scaling, **kwargs)
        return self.out_proj(rearrange(outputs, "b t k e -> b t (k e)")), weights


class MosaicGPTMLP(nn.Module):
    """Feed-forward with the exact GELU."""

    def __init__(self, config: MosaicGPTConfig) -> None:
        super().__init__()
        self.mlp_up = nn.Linear(config.d_model, config.mlp_ratio * config.d_model, bias=False)
        self.mlp_down = nn.Linear(config.mlp_ratio * config.d_model, config.d_model, bias=False)

    def forward(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Returns the outputs."""
        return self.mlp_down(F.gelu(self.mlp_up(hidden)))


class MosaicGPTBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each after a norm and with a residual connection."""

    def __init__(self, config: MosaicGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.d_model, bias=False)
        self.attn = MosaicGPTAttention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.d_model, bias=False)
        self.mlp = MosaicGPTMLP(config)

    def forward(self, hidden: Float[Tensor, "b t d"], **kwargs: Any) -> Float[Tensor, "b t d"]:
        """Returns the hidden states after the layer."""
        attended, _ = self.attn(self.ln_1(hidden), **kwargs)
        hidden = hidden + attended
        return hidden + self.mlp(self.ln_2(hidden))


class MosaicGPTPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the architecture."""

    config_class = MosaicGPTConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["MosaicGPTBlock"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar[dict[str, type]] = {
        "hidden_states": MosaicGPTBlock,
        "attentions": MosaicGPTAttention,
    }


class MosaicGPTModel(MosaicGPTPreTrainedModel):
    """The decoder without its output head."""

    def __init__(self, config: MosaicGPTConfig) -> None:
        config.check()
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList([MosaicGPTBlock(config, index) for index in range(config.n_layers)])
        self.ln_f = nn.LayerNorm(config.d_model, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the embeddings of the vocabulary."""
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the embeddings of the vocabulary."""
        self.wte = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ t"] | None = None,
        past_key_values: Any = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Returns the hidden states after the last norm; the arguments are those of transformers.

        Raises:
            ValueError: If not exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        hidden = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            start = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = start + torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        # The scores are divided by this root afterwards, and ALiBi must not be.
        root = (self.config.d_model / self.config.n_heads) ** 0.5
        slopes = alibi_slopes(self.config.n_heads, self.config.alibi_bias_max, hidden.device)
        positions = position_ids.expand(len(hidden), -1)
        alibi = alibi_features(positions, slopes * root, hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, alibi=alibi, attention_mask=mask, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden), past_key_values=past_key_values)


class MosaicGPTForCausalLM(MosaicGPTPreTrainedModel, GenerationMixin):
    """The decoder with its output head, which is tied to the embeddings."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: MosaicGPTConfig) -> None:
        super().__init__(config)
        self.transformer = MosaicGPTModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ t"] | None = None,
        past_key_values: Any = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Returns the logits and, with ``labels``, the mean loss; the arguments are those of transformers."""
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
