"""Every causal language model of transformers, tiny and random: composed, trained a step, run, saved and loaded."""

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, CLIPVisionConfig, CLIPVisionModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from flamingo import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError
from tests import tiny
from tests.compatibility.shrinking import tiny_config
from tests.compatibility.sweep import Outcome, not_built

CLASSES: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_WIDTH, _LAYERS, _HEADS, _EXPERTS, _FEEDFORWARD = 32, 4, 4, 4, 48
#: The value of every field of these names.
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), tiny.VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), _HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "global_head_dim"), _WIDTH // _HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dim_ff", "dff"), _FEEDFORWARD),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_inner", "feed_forward_size"), _FEEDFORWARD),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_experts_intermediate_size", "intermediate_size_mlp", "dense_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), _EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    "qk_head_dim": 16,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "sliding_window_size"), 6),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), _HEADS),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_d_head", "mamba_head_dim", "mamba_d_state"), 8),
    **dict.fromkeys(("state_size", "ssm_state_size", "rotary_dim"), 8),
    **dict.fromkeys(("pad_token_id", "bos_token_id"), 0),
    **dict.fromkeys(("eos_token_id", "sep_token_id", "cls_token_id"), 1),
    **dict.fromkeys(("decoder_start_token_id", "forced_eos_token_id"), 1),
}
_QWEN4 = {
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "indexer_head_dim": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "hc_lowrank": 8,
}
#: Fields that shrinking by name gets wrong.
SPECIAL: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "bamba": {"attn_layer_indices": [1, 3]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {
        "vision_config": {"adapter_in_dim": _WIDTH, "adapter_out_dim": _WIDTH},
        "audio_config": {"adapter_input_size": _WIDTH, "adapter_output_size": _WIDTH},
    },
    "emu3": {"vocabulary_map": {"<image>": 5, "<|visual token 000000|>": 6}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 2},
    "gemma4": {"text_config": {"hidden_size_per_layer_input": 0}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "moshi": {"sliding_window": 64},  # transformers applies it with the cache only
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [8, 24]},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}

#: Patterns of sentences, and the architecture that they point at.
REASONS = (
    ("later tokens change", "encoder-only"),
    ("recurrent state", "recurrent state only"),
    ("inputs_embeds", "no inputs_embeds"),
    ("per-layer inputs by token id|not from their embeddings", "per-layer inputs by token id"),
    ("takes no position_ids", "no position_ids"),
    ("cache gives other logits|cache inside its modules", "a cache of its own"),
    ("one vector for each token", "several streams of hidden states"),
    ("exactly one ModuleList", "no single list of layers"),
    ("did not call layer", "layers of its own cross-attention"),
)
#: The architecture, where the sentence names a consequence of it.
REASONS_OF = {
    "prophetnet": "predicts several tokens at once",
    "recurrent_gemma": "a cache of its own",
    "xlm": "encoder-only",
    "xlnet": "encoder-only",
}


#: What has to hold of a model of this type that works.
WORKS_IF = {
    "gemma4": "hidden_size_per_layer_input is 0",
    "gemma4_text": "hidden_size_per_layer_input is 0",
    "moshi": "prompts are shorter than the sliding window",
}


def trial(model_type: str) -> Outcome:
    """Compose a tiny random model of this type and try all that a Flamingo does with it."""
    name = CLASSES[model_type]
    with tempfile.TemporaryDirectory() as folder:
        vision, language = Path(folder, "vision"), Path(folder, "language")
        try:
            save_language_model(model_type, language)
        except Exception as error:
            return not_built(model_type, name, error)
        save_encoder(vision)
        try:
            model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
                vision, language, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
            )
        except UserError as error:
            return Outcome(model_type, name, "refused", reason_for(model_type, str(error)), str(error))
        tiny.open_gates(model, 0.7)
        check_training(model)
        check_generation(model.eval())
        check_saving(model, Path(folder))
    condition = WORKS_IF.get(model_type)
    return Outcome(model_type, name, "works", "" if condition is None else f"if {condition}")


def reason_for(model_type: str, sentence: str) -> str:
    """The kind of architecture that was refused, in a few words."""
    if model_type in REASONS_OF:
        return REASONS_OF[model_type]
    return next((reason for pattern, reason in REASONS if re.search(pattern, sentence)), "")


def save_language_model(model_type: str, folder: Path) -> None:
    """A whole model where it is multimodal, as people have it.

    Weights are larger than at initialisation, so that what must make a difference makes a large one.
    """
    config = tiny_config(model_type, SIZES, SPECIAL.get(model_type, {}))
    multimodal = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    model = (AutoModelForImageTextToText if multimodal else AutoModelForCausalLM).from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)


def save_encoder(folder: Path) -> None:
    config = CLIPVisionConfig(**tiny.VISION_MODELS["clip_vision_model"])
    CLIPVisionModel(config).save_pretrained(folder)


def check_training(model: FlamingoForConditionalGeneration) -> None:
    """Every parameter that trains gets a gradient, and no other."""
    inputs = tiny.inputs()
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without, f"no gradient in {without}"
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not frozen, f"a gradient in {frozen}"
    model.zero_grad()


def check_generation(model: FlamingoForConditionalGeneration) -> None:
    """With the cache as without, greedy and by beams, in a batch with padding on the left."""
    inputs = tiny.inputs()
    inputs["attention_mask"][1, :5] = 0
    for settings in ({"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}):
        settings |= {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        cached = model.generate(**inputs, **settings, use_cache=True)
        uncached = model.generate(**inputs, **settings, use_cache=False)
        assert torch.equal(cached, uncached), f"cached {cached[:, 14:].tolist()}, not {uncached[:, 14:].tolist()}"


def check_saving(model: FlamingoForConditionalGeneration, folder: Path) -> None:
    """A loaded checkpoint gives the same logits, with its backbones and without."""
    expected = model(**tiny.inputs()).logits
    for include_backbones in (True, False):
        model.save_pretrained(folder / "flamingo", include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(folder / "flamingo")
        assert torch.equal(loaded(**tiny.inputs()).logits, expected), "loaded, it gives other logits"
