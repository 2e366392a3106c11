"""OpenFlamingo's checkpoint.pt (arXiv 2308.01390) -> our model and processor, and back.

The file contains the trained parts: the resampler, the gated blocks, and the embeddings of the whole vocabulary with
the rows of <|endofchunk|>, <image> and, if the tokenizer had no padding token, <PAD>. It leaves out most frozen
weights; those that it contains must be the weights of the language model that the user names.
"""

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from flamingo.data.processor import FlamingoProcessor
from flamingo.interop.weights import Names, feedforward_patterns, fill, gathered, read_weights, renamed
from flamingo.model import TRAINED_PARTS
from flamingo.model.layers import repeated_layers
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError

#: The values that all models of OpenFlamingo have; only the interval of gated blocks differs.
PERCEIVER: dict[str, Any] = {
    "kind": "perceiver",
    "depth": 6,
    "num_latents": 64,
    "num_heads": 8,
    "head_dim": 64,
    "mlp_ratio": 4,
    "activation": "gelu",
    "num_frames": 0,
    "qk_norm": False,
}
CROSS_ATTENTION: dict[str, Any] = {
    "kind": "cross_attention",
    "num_heads": 8,
    "head_dim": 64,
    "mlp_ratio": 4,
    "mlp_width": None,
    "activation": "gelu",
    "glu": False,
    "norm": "layer",
    "gate": "scalar",
    "qk_norm": False,
    "attend": "last",
}
VISION_FEATURES: dict[str, Any] = {"hidden_state": -1, "class_token": "drop", "final_norm": False}

#: The key of the head of GPT-NeoX in transformers before version 5.
_NEOX_HEAD = "lang_encoder.embed_out.weight"

#: Our name of a part of a feed-forward -> theirs.
_FEEDFORWARD = {"norm": "0", "up": "1", "down": "3"}
_TABLE = {
    r"connector\.(latents|norm\..*)": r"perceiver.\1",
    r"connector\.layers\.(\d+)\.norm_features\.(.*)": r"perceiver.layers.\1.0.norm_media.\2",
    r"connector\.layers\.(\d+)\.norm_latents\.(.*)": r"perceiver.layers.\1.0.norm_latents.\2",
    r"connector\.layers\.(\d+)\.attention\.to_[kv]\.(.*)": r"perceiver.layers.\1.0.to_kv.\2",
    r"connector\.layers\.(\d+)\.attention\.(.*)": r"perceiver.layers.\1.0.\2",
    r"fusion\.blocks\.(\d+)\.attention_gate": r"LAYERS.\1.gated_cross_attn_layer.attn_gate",
    r"fusion\.blocks\.(\d+)\.feedforward_gate": r"LAYERS.\1.gated_cross_attn_layer.ff_gate",
    r"fusion\.blocks\.(\d+)\.norm\.(.*)": r"LAYERS.\1.gated_cross_attn_layer.attn.norm.\2",
    r"fusion\.blocks\.(\d+)\.attention\.to_[kv]\.(.*)": r"LAYERS.\1.gated_cross_attn_layer.attn.to_kv.\2",
    r"fusion\.blocks\.(\d+)\.attention\.(.*)": r"LAYERS.\1.gated_cross_attn_layer.attn.\2",
    r"(new_tokens\..*_rows)": r"\1",
}
_TABLE |= feedforward_patterns(r"connector\.layers\.(\d+)\.feedforward", r"perceiver.layers.\1.1", _FEEDFORWARD)
_TABLE |= feedforward_patterns(
    r"fusion\.blocks\.(\d+)\.feedforward", r"LAYERS.\1.gated_cross_attn_layer.ff", _FEEDFORWARD
)


def convert(
    checkpoint: Path, vision: str, language: str
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, list[str]]:
    """Returns our model, its processor, and notes for the user.

    Args:
        checkpoint: The file.
        vision: The vision encoder that OpenFlamingo was trained with, in the format of transformers.
        language: The language model that it was trained with.

    Raises:
        UserError: If a key is missing, left over, of another shape or of another language model; the error names the
            file and the key.
    """
    weights = read_weights(checkpoint)
    every = _first_gated_layer(weights, checkpoint) + 1
    processor = FlamingoProcessor.from_vision_text_pretrained(vision, language)
    # OpenFlamingo calls the tokenizer: LLaMA's begins with BOS, that of GPT-NeoX and MPT does not.
    processor.bos = bool(processor.tokenizer("")["input_ids"])
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        vision,
        language,
        new_token_ids=processor.new_token_ids,
        connector=PERCEIVER,
        fusion=CROSS_ATTENTION | {"every": every, "offset": every - 1},
    )
    weights = _single(weights, model, checkpoint)
    notes = _take_embeddings(model, weights, language, checkpoint)
    _take_frozen(model, weights, language, checkpoint)
    names = _names(model)
    if "new_tokens.output_rows" not in weights:
        names.pop("new_tokens.output_rows", None)
    fill(model, weights, names, checkpoint)
    return model, processor, notes


def _first_gated_layer(weights: dict[str, Tensor], checkpoint: Path) -> int:
    gated = []
    for key in weights:
        match = re.fullmatch(r"lang_encoder\..+\.(\d+)\.gated_cross_attn_layer\.attn_gate", key)
        if match is not None:
            gated.append(int(match[1]))
    if not gated:
        raise UserError(f"{checkpoint} is not OpenFlamingo's checkpoint: it has no gated_cross_attn_layer.attn_gate")
    return min(gated)


def export(model: FlamingoForConditionalGeneration, processor: FlamingoProcessor) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the weights for OpenFlamingo's ``load_state_dict(..., strict=False)``, to be saved as checkpoint.pt.

    Raises:
        UserError: For a model that OpenFlamingo cannot express; the error names the key of the config.
    """
    _check_expressible(model, processor)
    weights = gathered(model, _names(model))
    for key in list(weights):
        if "_rows" in key:
            del weights[key]
    new = model.new_tokens
    # If the tokenizer has no padding token, our processor pads with the end of the text, and theirs adds a token.
    padding = int(processor.tokenizer.pad_token == processor.tokenizer.eos_token)
    matrices: list[tuple[nn.Embedding | nn.Linear, Tensor]] = [(model.get_input_embeddings(), new.input_rows)]
    if new.output_rows is not None:
        matrices.append((model.get_output_embeddings(), new.output_rows))
    for module, rows in matrices:
        old = module.weight[: min(model.config.new_token_ids)].to(rows.dtype)
        # The row of the padding token is never read.
        weights[_name(model, module)] = torch.cat([old, rows, old.mean(dim=0).expand(padding, -1)]).detach()
    if model.language_model.config.model_type == "gpt_neox" and new.output_rows is not None:
        weights[_NEOX_HEAD] = weights[_name(model, model.get_output_embeddings())]
    return weights


def _name(model: FlamingoForConditionalGeneration, module: nn.Module) -> str:
    """Returns OpenFlamingo's key of a module of the language model, or of its weight."""
    names = {child: name for name, child in model.language_model.named_modules()}
    suffix = ".weight" if hasattr(module, "weight") else ""
    return f"lang_encoder.{names[module]}{suffix}"


def _layers(model: FlamingoForConditionalGeneration) -> str:
    return _name(model, repeated_layers(model.language_model))


def _names(model: FlamingoForConditionalGeneration) -> Names:
    trained = [key for key in model.state_dict() if key.startswith(TRAINED_PARTS) and key != "new_tokens.token_ids"]
    layers = _layers(model)
    return {key: name.replace("LAYERS", layers) for key, name in renamed(trained, _TABLE).items()}


def _single(weights: dict[str, Tensor], model: FlamingoForConditionalGeneration, checkpoint: Path) -> dict[str, Tensor]:
    """Returns each tensor once, by its name in version 2. Version 1 has gated blocks and layers in two places.

    Raises:
        UserError: If two tensors of one name differ.
    """
    layers, head = _layers(model), _name(model, model.get_output_embeddings())
    single: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = re.sub(r"^lang_encoder\.gated_cross_attn_layers\.(\d+)\.", rf"{layers}.\1.gated_cross_attn_layer.", key)
        name = re.sub(r"^lang_encoder\.old_decoder_blocks\.", f"{layers}.", name).replace(".decoder_layer.", ".")
        name = head if name == _NEOX_HEAD else name
        if name in single and not torch.equal(single[name], tensor):
            raise UserError(f"{checkpoint} holds two different tensors for {name}: the other is {key}")
        single[name] = tensor
    return single


def _take_embeddings(
    model: FlamingoForConditionalGeneration, weights: dict[str, Tensor], language: str, checkpoint: Path
) -> list[str]:
    """Replaces the matrices by the rows of the new tokens. The other rows are the language model's.

    Returns:
        Notes for the user.

    Raises:
        UserError: If the embeddings are missing, or differ from the language model's.
    """
    ids = model.config.new_token_ids
    notes = []
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    key, head_key = _name(model, embedding), _name(model, head)
    matrix = weights.pop(key, None)
    if matrix is None:
        raise UserError(f"{checkpoint} has no {key}, the embeddings of {language} with the new tokens")
    weights["new_tokens.input_rows"] = _new_rows(matrix, embedding.weight, ids, f"{checkpoint}: {key}", language)
    other = weights.pop(head_key, None)
    if model.new_tokens.output_rows is None:
        if other is not None and not torch.equal(other, matrix):
            raise UserError(f"{checkpoint}: {head_key} is not {key}, to which {language} ties it")
    elif other is not None:
        weights["new_tokens.output_rows"] = _new_rows(other, head.weight, ids, f"{checkpoint}: {head_key}", language)
    else:
        notes.append(
            f"{head_key} is not in {checkpoint}, so the new tokens are as likely as an average token in the output"
        )
    return notes


def _new_rows(matrix: Tensor, weight: Tensor, ids: list[int], name: str, language: str) -> Tensor:
    end = max(ids) + 1
    if matrix.ndim != 2 or matrix.shape[1] != weight.shape[1] or len(matrix) not in (end, end + 1):
        raise UserError(
            f"{name} has the shape {list(matrix.shape)}, where [{end} or {end + 1}, {weight.shape[1]}] is needed: "
            f"the tokenizer of {language} has {min(ids)} tokens, to which 2 or 3 are added"
        )
    old = min(min(ids), len(weight))
    _check_same(matrix[:old], weight[:old], name, language)
    return matrix[ids]


def _take_frozen(
    model: FlamingoForConditionalGeneration, weights: dict[str, Tensor], language: str, checkpoint: Path
) -> None:
    """Removes the language model's own weights. The file has all weights with "embed" in their names."""
    for key, weight in model.language_model.state_dict().items():
        tensor = weights.pop(f"lang_encoder.{key}", None)
        if tensor is not None:
            _check_same(tensor, weight, f"{checkpoint}: lang_encoder.{key}", language)


def _check_same(tensor: Tensor, weight: Tensor, name: str, language: str) -> None:
    """Checks that two tensors are equal, apart from the precision that they were saved in.

    Raises:
        UserError: If they are not.
    """
    tensor, weight = tensor.float(), weight.float()
    same = tensor.shape == weight.shape
    if same:
        same = not ((tensor - weight).norm(dim=-1) > 0.01 * weight.norm(dim=-1)).any()
    if not same:
        raise UserError(f"{name} is not that of {language}: the checkpoint was made with another language model")


def _check_expressible(model: FlamingoForConditionalGeneration, processor: FlamingoProcessor) -> None:
    config: Any = model.config
    if config.adapter is not None:
        raise UserError(f"OpenFlamingo cannot express adapter.kind={config.adapter.kind}: merge the adapter first")
    for key, value in PERCEIVER.items():
        _check_value(config.connector, "connector", key, value)
    for key, value in CROSS_ATTENTION.items():
        _check_value(config.fusion, "fusion", key, value)
    _check_value(config.fusion, "fusion", "offset", config.fusion.every - 1)
    for key, value in VISION_FEATURES.items():
        _check_value(config.vision_features, "vision_features", key, value)
    end = len(processor.tokenizer)
    if config.new_token_ids != [end - 2, end - 1] or end - 2 > config.text_config.vocab_size:
        raise UserError(
            f"OpenFlamingo has its two new tokens right after the tokenizer's {end - 2}, "
            f"but new_token_ids is {config.new_token_ids} (vocabulary: {config.text_config.vocab_size})"
        )


def _check_value(part: Any, part_key: str, key: str, value: Any) -> None:
    ours = getattr(part, key)
    if ours != value:
        raise UserError(f"OpenFlamingo cannot express {part_key}.{key}={ours}: its value is always {value}")
