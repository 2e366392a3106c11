"""MPT of transformers with the two LayerNorms that it lacks: an independent implementation of mosaic_gpt."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, MptConfig, MptForCausalLM, PreTrainedModel

#: The config.json of MosaicML's MPT-1B with the sizes of the tests: all of its options, and its own code.
PUBLISHED = {
    "alibi": True,
    "alibi_bias_max": 8,
    "architectures": ["MosaicGPT"],
    "attn_clip_qkv": None,
    "attn_impl": "torch",
    "attn_pdrop": 0,
    "attn_qk_ln": True,
    "attn_uses_sequence_id": False,
    "auto_map": {
        "AutoConfig": "configuration_mosaic_gpt.MosaicGPTConfig",
        "AutoModelForCausalLM": "mosaic_gpt.MosaicGPT",
    },
    "d_model": 24,
    "emb_pdrop": 0,
    "embedding_fraction": 1.0,
    "init_device": "cpu",
    "logit_scale": None,
    "low_precision_layernorm": True,
    "max_seq_len": 128,
    "mlp_ratio": 4,
    "model_type": "mosaic_gpt",
    "n_heads": 2,
    "n_layers": 2,
    "no_bias": True,
    "prefix_lm": False,
    "resid_pdrop": 0,
    "softmax_scale": None,
    "tokenizer_name": "EleutherAI/gpt-neox-20b",
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_size": 320,
}

#: Names of our modules -> those of MPT. The norms lie in the projection, whose output they normalise.
NAMES = {
    "ln_1": "norm_1",
    "ln_2": "norm_2",
    "ln_f": "norm_f",
    "mlp.mlp_up": "ffn.up_proj",
    "mlp.mlp_down": "ffn.down_proj",
    "attn.q_ln": "attn.Wqkv.q_ln",
    "attn.k_ln": "attn.Wqkv.k_ln",
}


class NormalisedProjection(nn.Linear):
    """Queries, keys and values side by side, the first two after a LayerNorm over their whole width."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width, bias=False)
        self.q_ln = nn.LayerNorm(width, bias=False)
        self.k_ln = nn.LayerNorm(width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        queries, keys, values = super().forward(hidden).chunk(3, dim=-1)
        return torch.cat([self.q_ln(queries), self.k_ln(keys), values], dim=-1)


class MptWithNorms(MptForCausalLM):
    def __init__(self, config: MptConfig) -> None:
        super().__init__(config)
        for block in self.transformer.blocks:
            block.attn.Wqkv = NormalisedProjection(config.d_model)
            # MPT's feed-forward is always four times as wide.
            assert block.ffn.up_proj.out_features == 4 * config.d_model


def load(folder: Path | str) -> MptWithNorms:
    """Returns it with the weights of a saved mosaic_gpt."""
    config = AutoConfig.from_pretrained(folder)
    sizes = {key: getattr(config, key) for key in ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size")}
    return of(AutoModelForCausalLM.from_pretrained(folder), MptConfig(**sizes))


def of(model: PreTrainedModel, config: MptConfig) -> MptWithNorms:
    """Returns it with the weights of a mosaic_gpt."""
    weights = {}
    for key, tensor in model.state_dict().items():
        for ours, theirs in NAMES.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        weights[key] = tensor
    peer = MptWithNorms(config)
    peer.load_state_dict(weights)
    return peer.eval()
