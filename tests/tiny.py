"""Tiny backbones with random weights, saved like real ones, and inputs for them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flamingo import FlamingoForConditionalGeneration
from tests.helpers import devices

VOCABULARY = 300
NEW_TOKEN_IDS = [VOCABULARY, VOCABULARY + 1]
IMAGE_SIZE = 16

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_WINDOW = {**_LLAMA, "sliding_window": 6}  # shorter than the inputs, so that it matters
# Dropout stays at the libraries' defaults where these are not 0: frozen models must not use it.
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "layerdrop": 0.5,
    },
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 128},
    "llama": _LLAMA,
    "mistral": _WINDOW,
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "qwen3": _LLAMA,
    "gemma2": {**_WINDOW, "final_logit_softcapping": 30.0},
    "gemma3_text": _WINDOW,
    "phi": {**_LLAMA, "num_key_value_heads": 4, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
    # Three heads: their number is no power of two.
    "mosaic_gpt": {"d_model": 36, "n_heads": 3, "n_layers": 4, "max_seq_len": 128},
}

_VIT = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
}
VISION_MODELS: dict[str, dict[str, Any]] = {
    "clip_vision_model": _VIT,
    "siglip_vision_model": _VIT,
    "dinov2": _VIT,
    "dinov2_with_registers": {**_VIT, "num_register_tokens": 2},
    "vit": _VIT,
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 64},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 64},
}

PARTS: dict[str, dict[str, Any]] = {
    "connector": {"depth": 2, "num_latents": 5, "num_heads": 2, "head_dim": 12},
    "fusion": {"every": 2, "offset": 1, "num_heads": 2, "head_dim": 16},
}

#: The connectors besides the Perceiver Resampler, at the sizes of the tests.
PATCH_CONNECTORS: dict[str, dict[str, Any]] = {
    "transformer": {"kind": "transformer", "depth": 2, "num_heads": 2, "head_dim": 12},
    "mlp": {"kind": "mlp", "depth": 2},
    "identity": {"kind": "identity"},
    "linear": {"kind": "linear"},
    "mlp_projector": {"kind": "mlp_projector"},
}

#: Connectors with fewer visual tokens than the 16 patches.
POOLING_CONNECTORS: dict[str, dict[str, Any]] = {
    "mlp_projector": {"kind": "mlp_projector", "pool": 2},
    "qformer": {"kind": "qformer", "depth": 3, "num_query_tokens": 3, "width": 16, "num_heads": 2},
}

#: Visual tokens in the language model's input, by LLaVA's projector: 4 for each image. The test's language models have
#: embeddings of width 32, but OPT's are 16 wide.
PREFIX: dict[str, Any] = {
    "fusion": {"kind": "prefix"},
    "connector": {"kind": "mlp_projector", "pool": 2},
    "image_token_id": NEW_TOKEN_IDS[1],
}
TOKENS_PER_IMAGE = 4

#: Generation settings as checkpoints ship them; each changes what the tiny models decode.
POISONED: list[dict[str, Any]] = [
    {"repetition_penalty": 5.0},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(2, 150))},
    {"begin_suppress_tokens": list(range(2, 150))},
    {"bad_words_ids": [[i] for i in range(100, VOCABULARY)]},
    {"forced_eos_token_id": 7},
    {"min_new_tokens": 5, "eos_token_id": [9, 1]},
    {"sequence_bias": [[[5], 100.0]]},
    {"do_sample": True, "temperature": 3.0, "top_k": 0},
    {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 3.0, "early_stopping": True},
    {"max_length": 3, "max_time": 1e-9},
    {"return_dict_in_generate": True, "output_scores": True},
    {"use_cache": False},
    {"renormalize_logits": True, "exponential_decay_length_penalty": (1, 9.0)},
    {"prompt_lookup_num_tokens": 3},
]


def save_backbones(folder: Path) -> None:
    """One folder per family: ``folder / family``. Language models bring a tokenizer, encoders an image processor."""
    torch.manual_seed(0)
    *families, last = LANGUAGE_MODELS
    for family in families:
        _save_language_model(folder, family)
    for family, settings in VISION_MODELS.items():
        model = AutoModel.from_config(AutoConfig.for_model(family, **settings))
        _spread(model)
        model.save_pretrained(folder / family)
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder / family)
    _save_language_model(folder, last)  # after the encoders, whose weights the golden values need


def _save_language_model(folder: Path, family: str) -> None:
    settings = LANGUAGE_MODELS[family]
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **settings)
    config.pad_token_id = None
    model = AutoModelForCausalLM.from_config(config)
    _spread(model)
    model.save_pretrained(folder / family)
    tokenizer().save_pretrained(folder / family)


def _spread(model: torch.nn.Module) -> None:
    """Returns larger weights than at initialisation, so that differences are large where there must be one."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)


def tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer with 300 entries, <s> = 0 and </s> = 1."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [
        "a dog runs on the grass",
        "two dogs and a red ball",
        "Output: a cat sits on a mat",
        "Question: what colour is the ball? Answer: red",
    ]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts * 4,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    assert bpe.get_vocab_size() == VOCABULARY
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", model_max_length=128)


def flamingo(
    folder: Path, language: str = "gpt2", vision: str = "clip_vision_model", gates: float = 0.7, **config: Any
) -> FlamingoForConditionalGeneration:
    """Returns a Flamingo in evaluation mode whose gates are all at ``gates``. ``config`` overrides parts by key.

    The composition is not checked unless ``check=True``: the check has its own tests.
    """
    config.setdefault("check", False)
    if vision not in ("clip_vision_model", "dinov2", "dinov2_with_registers", "vit"):
        config["vision_features"] = {"class_token": "none", **config.get("vision_features", {})}
    parts: dict[str, Any] = {"new_token_ids": NEW_TOKEN_IDS} | PARTS
    for key, value in config.items():
        has_own_keys = not isinstance(value, dict) or "kind" in value
        parts[key] = value if has_own_keys else PARTS.get(key, {}) | value
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        str(folder / vision), str(folder / language), **parts
    ).eval()
    open_gates(model, gates)
    model.place(devices.DEVICE)
    return model


def open_gates(model: torch.nn.Module, value: float) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(value)


def inputs(documents: int = 2) -> dict[str, torch.Tensor]:
    """Returns inputs with text before the first image, then three images with text, and new tokens among the ids."""
    generator = torch.Generator().manual_seed(1)
    image_index = torch.tensor([-1, -1, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]).repeat(documents, 1)
    ids = torch.randint(2, VOCABULARY, image_index.shape, generator=generator)
    ids[:, [2, 6, 9]] = NEW_TOKEN_IDS[1]
    ids[:, [5, 8]] = NEW_TOKEN_IDS[0]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "image_index": image_index,
        "pixel_values": torch.randn(documents, 3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
    }
    return devices.moved(batch)


def prefix_inputs(documents: int = 2, tokens_per_image: int = TOKENS_PER_IMAGE) -> dict[str, torch.Tensor]:
    """Returns :func:`inputs` with ``tokens_per_image`` markers for each image."""
    batch = inputs(documents)
    repeats = torch.where(batch["input_ids"][0] == NEW_TOKEN_IDS[1], tokens_per_image, 1)
    for key in ("input_ids", "attention_mask", "image_index"):
        batch[key] = batch[key].repeat_interleave(repeats, dim=1)
    return batch
