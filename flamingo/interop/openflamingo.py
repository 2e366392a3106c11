"""OpenFlamingo's checkpoint.pt (arXiv 2308.01390) -> our model and processor, and back.

The file holds what was trained: the resampler, the gated blocks, and the embeddings of the whole vocabulary with
the rows of <|endofchunk|>, <image> and, where the tokenizer had no padding token, <PAD>. Most of what is frozen is not
in it; what is there must be the given language model's.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flamingo.data.processor import FlamingoProcessor
from flamingo.interop.weights import Names, fill, gathered, read_weights, renamed
from flamingo.model.layers import repeated_layers
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError

#: All of OpenFlamingo's models have these values; only the interval of gated blocks differs.
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

#: What transformers called the head of GPT-NeoX before version 5.
_NEOX_HEAD = "lang_encoder.embed_out.weight"

_FEEDFORWARD = {"norm": 0, "up": 1, "down": 3}
_TABLE = {
    r"connector\.(latents|norm\..*)": r"perceiver.\1",
    r"connector\.layers\.(\d+)\.norm_features\.(.*)": r"perceiver.layers.\1.0.norm_media.\2",
    r"connector\.layers\.(\d+)\.norm_latents\.(.*)": r"perceiver.layers.\1.0.norm_latents.\2",
    r"connector\.layers\.(\d+)\.attention\.to_[kv]\.(.*)": r"perceiver.layers.\1.0.to_kv.\2",
    r"connector\.layers\.(\d+)\.attention\.(.*)": r"perceiver.layers.\1.0.\2",
    **{
        rf"connector\.layers\.(\d+)\.feedforward\.{ours}\.(.*)": rf"perceiver.layers.\1.1.{theirs}.\2"
        for ours, theirs in _FEEDFORWARD.items()
    },
    r"gated_layers\.(\d+)\.attention_gate": r"LAYERS.\1.gated_cross_attn_layer.attn_gate",
    r"gated_layers\.(\d+)\.feedforward_gate": r"LAYERS.\1.gated_cross_attn_layer.ff_gate",
    r"gated_layers\.(\d+)\.norm\.(.*)": r"LAYERS.\1.gated_cross_attn_layer.attn.norm.\2",
    r"gated_layers\.(\d+)\.attention\.to_[kv]\.(.*)": r"LAYERS.\1.gated_cross_attn_layer.attn.to_kv.\2",
    r"gated_layers\.(\d+)\.attention\.(.*)": r"LAYERS.\1.gated_cross_attn_layer.attn.\2",
    **{
        rf"gated_layers\.(\d+)\.feedforward\.{ours}\.(.*)": rf"LAYERS.\1.gated_cross_attn_layer.ff.{theirs}.\2"
        for ours, theirs in _FEEDFORWARD.items()
    },
    r"(new_tokens\..*_rows)": r"\1",
}


def convert(
    checkpoint: Path, vision: str, language: str
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, list[str]]:
    """Our model, its processor, and what is to be known of them.

    ``vision`` and ``language`` are the backbones that OpenFlamingo was made of, as transformers has them.
    Raises UserError, naming the file and the key, for one that is missing, left over, of another shape, or
    of another language model.
    """
    weights = read_weights(checkpoint)
    gates = [re.fullmatch(r"lang_encoder\..+\.(\d+)\.gated_cross_attn_layer\.attn_gate", key) for key in weights]
    every = min((int(gate[1]) + 1 for gate in gates if gate), default=None)
    if every is None:
        raise UserError(f"{checkpoint} is no checkpoint of OpenFlamingo: it has no gated_cross_attn_layer.attn_gate")
    processor = FlamingoProcessor.from_vision_text_pretrained(vision, language)
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        vision,
        language,
        new_token_ids=processor.new_token_ids,
        connector=PERCEIVER,
        fusion={**CROSS_ATTENTION, "every": every, "offset": every - 1},
    )
    weights = _single(weights, model, checkpoint)
    notes = _take_embeddings(model, weights, language, checkpoint)
    _take_frozen(model, weights, language, checkpoint)
    names = _names(model)
    if "new_tokens.output_rows" not in weights:
        names.pop("new_tokens.output_rows", None)
    fill(model, weights, names, checkpoint)
    return model, processor, notes


def export(model: FlamingoForConditionalGeneration, processor: FlamingoProcessor) -> dict[str, Tensor]:
    """What OpenFlamingo loads by ``load_state_dict(..., strict=False)``, to be saved as checkpoint.pt.

    Raises UserError, naming the key of the config, for a model that OpenFlamingo cannot express.
    """
    _check_expressible(model, processor)
    weights = {key: tensor for key, tensor in gathered(model, _names(model)).items() if "_rows" not in key}
    new = model.new_tokens
    # Our processor lets the end of the text pad where the tokenizer had nothing for it; theirs adds a token.
    padding = int(processor.tokenizer.pad_token == processor.tokenizer.eos_token)
    matrices: list[tuple[nn.Embedding | nn.Linear, Tensor]] = [(model.get_input_embeddings(), new.input_rows)]
    if new.output_rows is not None:
        matrices.append((model.get_output_embeddings(), new.output_rows))
    for module, rows in matrices:
        old = module.weight[: min(model.config.new_token_ids)].to(rows.dtype)
        # As likely as an average token: that of padding is never looked at.
        weights[_name(model, module)] = torch.cat([old, rows, old.mean(dim=0).expand(padding, -1)]).detach()
    if model.language_model.config.model_type == "gpt_neox" and new.output_rows is not None:
        weights[_NEOX_HEAD] = weights[_name(model, model.get_output_embeddings())]
    return weights


def _name(model: FlamingoForConditionalGeneration, module: nn.Module) -> str:
    """What OpenFlamingo calls a module of the language model, or its weight."""
    name = next(name for name, found in model.language_model.named_modules() if found is module)
    return f"lang_encoder.{name}" + (".weight" if hasattr(module, "weight") else "")


def _layers(model: FlamingoForConditionalGeneration) -> str:
    return _name(model, repeated_layers(model.language_model))


def _names(model: FlamingoForConditionalGeneration) -> Names:
    trained = [key for key in model.state_dict() if key.startswith(("connector.", "gated_layers.", "new_tokens."))]
    names = renamed((key for key in trained if key != "new_tokens.token_ids"), _TABLE)
    return {ours: theirs.replace("LAYERS", _layers(model)) for ours, theirs in names.items()}


def _single(weights: dict[str, Tensor], model: FlamingoForConditionalGeneration, checkpoint: Path) -> dict[str, Tensor]:
    """Each tensor once, by today's name: version 1 has gated blocks and decoder layers in two places."""
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
    """Put the new tokens' rows in the place of the matrices, whose other rows are the language model's own."""
    ids, notes = model.config.new_token_ids, []
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
            f"{head_key} is not in {checkpoint}: nothing says how likely the new tokens are as output, "
            "so they are as likely as an average token"
        )
    return notes


def _new_rows(matrix: Tensor, own: Tensor, ids: list[int], name: str, language: str) -> Tensor:
    end = max(ids) + 1
    if matrix.ndim != 2 or matrix.shape[1] != own.shape[1] or len(matrix) not in (end, end + 1):
        raise UserError(
            f"{name} has the shape {list(matrix.shape)}, where [{end} or {end + 1}, {own.shape[1]}] is needed: "
            f"the tokenizer of {language} has {min(ids)} tokens, to which 2 or 3 are added"
        )
    known = min(*ids, len(own))
    _check_same(matrix[:known], own[:known], name, language)
    return matrix[ids]


def _take_frozen(
    model: FlamingoForConditionalGeneration, weights: dict[str, Tensor], language: str, checkpoint: Path
) -> None:
    """Leave out what is the language model's own: the file keeps all that has "embed" in its name."""
    for key, own in model.language_model.state_dict().items():
        theirs = weights.pop(f"lang_encoder.{key}", None)
        if theirs is not None:
            _check_same(theirs, own, f"{checkpoint}: lang_encoder.{key}", language)


def _check_same(theirs: Tensor, own: Tensor, name: str, language: str) -> None:
    """Raise UserError unless these are the same but for the precision that they were saved in."""
    theirs, own = theirs.float(), own.float()
    if theirs.shape != own.shape or ((theirs - own).norm(dim=-1) > 0.01 * own.norm(dim=-1)).any():
        raise UserError(f"{name} is not that of {language}: the checkpoint was made with another language model")


def _check_expressible(model: FlamingoForConditionalGeneration, processor: FlamingoProcessor) -> None:
    config: Any = model.config
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
            f"OpenFlamingo has its two new tokens right behind the tokenizer's {end - 2}, "
            f"but new_token_ids is {config.new_token_ids} (vocabulary: {config.text_config.vocab_size})"
        )


def _check_value(part: Any, part_key: str, key: str, value: Any) -> None:
    ours = getattr(part, key)
    if ours != value:
        raise UserError(f"OpenFlamingo cannot express {part_key}.{key}={ours}: there it always is {value}")
