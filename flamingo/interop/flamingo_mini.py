"""flamingo-mini's checkpoints -> our model and processor.

The file holds a whole language model, because its training changed the embeddings of all tokens. What it was made of
must be known: the tokenizer and the shape of the language model, GPT-2 or OPT, and CLIP, which is frozen.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from flamingo.data.processor import FlamingoProcessor
from flamingo.interop.weights import Names, fill, read_weights, renamed
from flamingo.model.config import FlamingoConfig
from flamingo.model.encoders import load_vision_model
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import json_object

END_OF_CHUNK = "<EOC>"

#: What its config.json leaves out where it is the default.
_DEFAULTS = {
    "xattn_every": 1,
    **{"xattn_heads": 8, "xattn_dim_head": 64, "xattn_ff_mult": 4, "xattn_act": "gelu"},
    **{"resampler_heads": 8, "resampler_dim_head": 64, "resampler_ff_mult": 4, "resampler_act": "gelu"},
    **{"resampler_depth": 6, "resampler_num_latents": 64, "resampler_num_time_embeds": 4},
}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "sqrelu": "relu2"}
_FEEDFORWARD = {"norm": 0, "up": 1, "down": 3}
_TABLE = {
    r"new_tokens\.(.*_rows)": r"new_tokens.\1",
    r"language_model\.lm_head\.weight": r"flamingo.lm_head.weight",
    r"language_model\.(?:transformer|model)\.(h|decoder\.layers)\.(\d+)\.(.*)": r"flamingo.lm.\1.\2.LM_BLOCK.\3",
    r"language_model\.(?:transformer|model)\.(.*)": r"flamingo.lm.\1",
    r"connector\.frame_embeddings": r"flamingo.resampler.time_pos_emb",
    r"connector\.(latents|norm\..*)": r"flamingo.resampler.\1",
    r"connector\.layers\.(\d+)\.norm_features\.(.*)": r"flamingo.resampler.layers.\1.0.norm_media.\2",
    r"connector\.layers\.(\d+)\.norm_latents\.(.*)": r"flamingo.resampler.layers.\1.0.norm_latents.\2",
    r"connector\.layers\.(\d+)\.attention\.(.*)": r"flamingo.resampler.layers.\1.0.\2",
    **{
        rf"connector\.layers\.(\d+)\.feedforward\.{ours}\.(.*)": rf"flamingo.resampler.layers.\1.1.{theirs}.\2"
        for ours, theirs in _FEEDFORWARD.items()
    },
    r"gated_layers\.(\d+)\.attention_gate": r"LAYERS.\1.xattn_block.alpha_attn",
    r"gated_layers\.(\d+)\.feedforward_gate": r"LAYERS.\1.xattn_block.alpha_ffw",
    r"gated_layers\.(\d+)\.norm\.(.*)": r"LAYERS.\1.xattn_block.attn.norm.\2",
    r"gated_layers\.(\d+)\.attention\.to_[kv]\.(.*)": r"LAYERS.\1.xattn_block.attn.to_kv.\2",
    r"gated_layers\.(\d+)\.attention\.(.*)": r"LAYERS.\1.xattn_block.attn.\2",
    **{
        rf"gated_layers\.(\d+)\.feedforward\.{ours}\.(.*)": rf"LAYERS.\1.xattn_block.ffw.{theirs}.\2"
        for ours, theirs in _FEEDFORWARD.items()
    },
}
#: Of each kind of language model: its layers, and its embeddings.
_FAMILIES = {
    "gpt2": ("flamingo.lm.h", "flamingo.lm.wte.weight"),
    "opt": ("flamingo.lm.decoder.layers", "flamingo.lm.decoder.embed_tokens.weight"),
}
_HEAD = "flamingo.lm_head.weight"


def convert(
    checkpoint: Path, vision: str, language: str
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, list[str]]:
    """Our model, its processor, and what is to be known of them. ``checkpoint`` is a folder with a config.json.

    Raises UserError, naming the file and the key, for what is missing, left over or of another shape.
    """
    theirs = _settings(checkpoint)
    text_config = from_pretrained(AutoConfig, language, "language model")
    if text_config.model_type not in _FAMILIES:
        raise UserError(f"{language} is a {text_config.model_type}; flamingo-mini knows {', '.join(_FAMILIES)}")
    layers, embedding = _FAMILIES[text_config.model_type]
    weights = {
        key: tensor
        for key, tensor in read_weights(checkpoint).items()
        if not key.startswith("flamingo.vision_encoder.")
    }
    processor = FlamingoProcessor.from_vision_text_pretrained(
        vision, language, new_tokens=[END_OF_CHUNK], end_of_chunk=END_OF_CHUNK
    )
    tied = _HEAD not in weights or (embedding in weights and torch.equal(weights[_HEAD], weights[embedding]))
    text_config.vocab_size += 1  # <EOC>, or a padding row where the tokenizer has fewer tokens than there are rows
    text_config.tie_word_embeddings = tied
    vision_model = load_vision_model(vision, dtype="auto")
    config = FlamingoConfig(
        vision_config=vision_model.config,
        text_config=text_config,
        new_token_ids=processor.new_token_ids,
        vision_features={"class_token": "keep"},
        connector=_part(theirs, "resampler")
        | {
            "depth": theirs["resampler_depth"],
            "num_latents": theirs["resampler_num_latents"],
            "num_frames": theirs["resampler_num_time_embeds"],
        },
        fusion=_part(theirs, "xattn") | {"every": theirs["xattn_every"]},
    )
    model = FlamingoForConditionalGeneration(config, vision_model)
    weights["new_tokens.input_rows"] = _new_rows(weights, embedding, config.new_token_ids, checkpoint)
    if tied:
        weights.pop(_HEAD, None)
    else:
        weights["new_tokens.output_rows"] = _new_rows(weights, _HEAD, config.new_token_ids, checkpoint)
    fill(model, weights, _names(model, layers), checkpoint)
    return model, processor, [f"chunks end with {END_OF_CHUNK}; <image> is no token of its own but plain text"]


def _settings(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "config.json"
    if not path.is_file():
        raise UserError(f"there is no {path}: checkpoint is a folder that flamingo-mini has saved")
    found = json_object(path.read_bytes(), str(path))
    theirs = {key: found.get(key, default) for key, default in _DEFAULTS.items()}
    for key in ("xattn_act", "resampler_act"):
        if theirs[key] not in _ACTIVATIONS:
            raise UserError(f"{path}: {key} must be one of {', '.join(_ACTIVATIONS)}, got {theirs[key]!r}")
    return theirs


def _part(theirs: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        "num_heads": theirs[f"{prefix}_heads"],
        "head_dim": theirs[f"{prefix}_dim_head"],
        "mlp_ratio": theirs[f"{prefix}_ff_mult"],
        "activation": _ACTIVATIONS[theirs[f"{prefix}_act"]],
    }


def _new_rows(weights: dict[str, Tensor], key: str, ids: list[int], checkpoint: Path) -> Tensor:
    """Our rows of the new tokens, which are in the matrix, too: there nobody looks at them."""
    if key not in weights:
        raise UserError(f"{checkpoint} has no {key}")
    if len(weights[key]) <= max(ids):
        raise UserError(f"{checkpoint}: {key} has {len(weights[key])} rows, but the id of {END_OF_CHUNK} is {max(ids)}")
    return weights[key][ids]


def _names(model: FlamingoForConditionalGeneration, layers: str) -> Names:
    tied = model.new_tokens.output_rows is None
    left_out = ("vision_model.", "new_tokens.token_ids", *(["language_model.lm_head."] if tied else []))
    names = renamed((key for key in model.state_dict() if not key.startswith(left_out)), _TABLE)
    for ours, theirs in names.items():
        index = theirs.removeprefix(f"{layers}.").split(".")[0]
        block = "lm_block." if index in model.gated_layers else ""  # a layer without a gated block is not wrapped
        names[ours] = theirs.replace("LM_BLOCK.", block).replace("LAYERS", layers)
    return names
