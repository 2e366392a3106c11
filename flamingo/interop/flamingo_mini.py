"""flamingo-mini's checkpoints -> our model and processor.

The file contains a whole language model, because its training changed the embeddings of all tokens. The user names the
backbones: GPT-2 or OPT, for its tokenizer and shape, and CLIP, which is frozen.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from flamingo.data.processor import FlamingoProcessor
from flamingo.interop.weights import Names, feedforward_patterns, fill, read_weights, renamed
from flamingo.model.config import FlamingoConfig
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.vision_loading import load_vision_model
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.reading import json_object

END_OF_CHUNK = "<EOC>"

#: The defaults of flamingo-mini. Its config.json leaves them out.
_DEFAULTS = {
    "xattn_every": 1,
    "xattn_heads": 8,
    "xattn_dim_head": 64,
    "xattn_ff_mult": 4,
    "xattn_act": "gelu",
    "resampler_heads": 8,
    "resampler_dim_head": 64,
    "resampler_ff_mult": 4,
    "resampler_act": "gelu",
    "resampler_depth": 6,
    "resampler_num_latents": 64,
    "resampler_num_time_embeds": 4,
}
#: Name of an activation in flamingo-mini -> our name.
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "sqrelu": "relu2"}
#: Our name of a part of a feed-forward -> theirs.
_FEEDFORWARD = {"norm": "0", "up": "1", "down": "3"}
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
    r"fusion\.blocks\.(\d+)\.attention_gate": r"LAYERS.\1.xattn_block.alpha_attn",
    r"fusion\.blocks\.(\d+)\.feedforward_gate": r"LAYERS.\1.xattn_block.alpha_ffw",
    r"fusion\.blocks\.(\d+)\.norm\.(.*)": r"LAYERS.\1.xattn_block.attn.norm.\2",
    r"fusion\.blocks\.(\d+)\.attention\.to_[kv]\.(.*)": r"LAYERS.\1.xattn_block.attn.to_kv.\2",
    r"fusion\.blocks\.(\d+)\.attention\.(.*)": r"LAYERS.\1.xattn_block.attn.\2",
}
_TABLE |= feedforward_patterns(
    r"connector\.layers\.(\d+)\.feedforward", r"flamingo.resampler.layers.\1.1", _FEEDFORWARD
)
_TABLE |= feedforward_patterns(r"fusion\.blocks\.(\d+)\.feedforward", r"LAYERS.\1.xattn_block.ffw", _FEEDFORWARD)
#: Model type of the language model -> the keys of its layers and of its embeddings.
_FAMILIES = {
    "gpt2": ("flamingo.lm.h", "flamingo.lm.wte.weight"),
    "opt": ("flamingo.lm.decoder.layers", "flamingo.lm.decoder.embed_tokens.weight"),
}
_HEAD = "flamingo.lm_head.weight"


def convert(
    checkpoint: Path, vision: str, language: str
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, list[str]]:
    """Returns our model, its processor, and notes for the user.

    Args:
        checkpoint: A folder with a config.json.
        vision: The CLIP model that it was trained with.
        language: The language model that it was trained with.

    Raises:
        UserError: If keys are missing, left over or of another shape; the error names the file and the key.
    """
    fields = _read_fields(checkpoint)
    text_config = from_pretrained(AutoConfig, language, "language model")
    if text_config.model_type not in _FAMILIES:
        raise UserError(f"{language} is a {text_config.model_type}; flamingo-mini knows {', '.join(_FAMILIES)}")
    layers, embedding = _FAMILIES[text_config.model_type]
    weights = read_weights(checkpoint)
    for key in list(weights):
        if key.startswith("flamingo.vision_encoder."):
            del weights[key]
    processor = FlamingoProcessor.from_vision_text_pretrained(
        vision, language, new_tokens=[END_OF_CHUNK], end_of_chunk=END_OF_CHUNK
    )
    tied = _is_tied(weights, embedding)
    text_config.vocab_size += 1  # <EOC>, or a padding row if the tokenizer has fewer tokens than rows
    text_config.tie_word_embeddings = tied
    vision_model = load_vision_model(vision, dtype="auto")
    connector = _attention_fields(fields, "resampler")
    connector["depth"] = fields["resampler_depth"]
    connector["num_latents"] = fields["resampler_num_latents"]
    connector["num_frames"] = fields["resampler_num_time_embeds"]
    fusion = _attention_fields(fields, "xattn")
    fusion["every"] = fields["xattn_every"]
    config = FlamingoConfig(
        vision_config=vision_model.config,
        text_config=text_config,
        new_token_ids=processor.new_token_ids,
        vision_features={"class_token": "keep"},
        connector=connector,
        fusion=fusion,
    )
    model = FlamingoForConditionalGeneration(config, vision_model)
    weights["new_tokens.input_rows"] = _new_rows(weights, embedding, config.new_token_ids, checkpoint)
    if tied:
        weights.pop(_HEAD, None)
    else:
        weights["new_tokens.output_rows"] = _new_rows(weights, _HEAD, config.new_token_ids, checkpoint)
    fill(model, weights, _names(model, layers), checkpoint)
    return model, processor, [f"chunks end with {END_OF_CHUNK}; <image> is no token of its own but plain text"]


def _read_fields(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "config.json"
    if not path.is_file():
        raise UserError(f"there is no {path}: checkpoint is a folder that flamingo-mini has saved")
    fields = _DEFAULTS | json_object(path.read_bytes(), str(path))
    for key in ("xattn_act", "resampler_act"):
        if fields[key] not in _ACTIVATIONS:
            raise UserError(f"{path}: {key} must be one of {', '.join(_ACTIVATIONS)}, got {fields[key]!r}")
    return fields


def _attention_fields(fields: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        "num_heads": fields[f"{prefix}_heads"],
        "head_dim": fields[f"{prefix}_dim_head"],
        "mlp_ratio": fields[f"{prefix}_ff_mult"],
        "activation": _ACTIVATIONS[fields[f"{prefix}_act"]],
    }


def _new_rows(weights: dict[str, Tensor], key: str, ids: list[int], checkpoint: Path) -> Tensor:
    """Returns the rows of the new tokens. The matrix also contains them, but our model does not read them there.

    Raises:
        UserError: If the matrix is missing, or has too few rows.
    """
    if key not in weights:
        raise UserError(f"{checkpoint} has no {key}")
    if len(weights[key]) <= max(ids):
        raise UserError(f"{checkpoint}: {key} has {len(weights[key])} rows, but the id of {END_OF_CHUNK} is {max(ids)}")
    return weights[key][ids]


def _is_tied(weights: dict[str, Tensor], embedding: str) -> bool:
    """Returns whether the output head has the weights of the embeddings."""
    if _HEAD not in weights:
        return True
    return embedding in weights and torch.equal(weights[_HEAD], weights[embedding])


def _names(model: FlamingoForConditionalGeneration, layers: str) -> Names:
    tied = model.new_tokens.output_rows is None
    left_out = ["vision_model.", "new_tokens.token_ids"]
    if tied:
        left_out.append("language_model.lm_head.")
    keys = [key for key in model.state_dict() if not key.startswith(tuple(left_out))]
    names = renamed(keys, _TABLE)
    for key, name in names.items():
        index = name.removeprefix(f"{layers}.").split(".")[0]
        block = "lm_block." if index in model.fusion.blocks else ""  # a layer without a gated block is not wrapped
        names[key] = name.replace("LM_BLOCK.", block).replace("LAYERS", layers)
    return names
