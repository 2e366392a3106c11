"""Frozen backbones: loaded by name or path, and recognised when a checkpoint only names them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from flamingo.model.configuration import FlamingoConfig
from flamingo.model.encoders import vision_class, vision_config
from flamingo.model.language import hub_arguments, load_text_model
from flamingo.model.loading import load_weights
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: What errors call it.
_PART = "vision encoder"
#: What the keys of a vision tower begin with in the checkpoint of a whole model.
_TOWER = r"^(?:\w+\.)*?(?:vision_tower|vision_model|vision_encoder|visual|image_encoder|image_model)\."


def load_vision_model(name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """A vision encoder; of a two-tower model (CLIP, SigLIP) the vision tower.

    Raises UserError if there is no such model, or its weights do not fit.
    """
    config = from_pretrained(AutoConfig, name_or_path, _PART, **hub_arguments(kwargs))
    tower = vision_config(config)
    renamed = {} if tower is config else {"key_mapping": {_TOWER: ""}}
    return load_weights(
        vision_class(tower), name_or_path, _PART, _is_of_another_part, config=tower, **renamed, **kwargs
    )


def _is_of_another_part(model: PreTrainedModel, key: str) -> bool:
    """Whether a key belongs to a head or a text tower, which a whole checkpoint has beside the encoder."""
    for tower in (model.base_model_prefix, "vision_model"):
        key = key.removeprefix(f"{tower}.")
    return key.split(".")[0] not in {name for name, _ in model.named_children()}


def fingerprint(model: nn.Module) -> str:
    """A digest of the weights: the same for the same values, whatever their names, device, or float32 or bfloat16."""
    return fingerprint_of(model.state_dict().values())


def fingerprint_of(tensors: Iterable[torch.Tensor]) -> str:
    """A digest of the tensors' shapes and of some values of each, in any order."""
    digests = []
    for tensor in tensors:
        sample = tensor.flatten()[:: max(1, tensor.numel() // 256)].to(torch.bfloat16).view(torch.int16)
        digests.append(hashlib.sha256(f"{tuple(tensor.shape)}{sample.tolist()}".encode()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]


#: What loads each of the frozen backbones.
LOADERS = {"vision_model": load_vision_model, "language_model": load_text_model}


def origin(part: str, model: PreTrainedModel, name_or_path: str | Path, revision: str | None) -> dict[str, str | None]:
    """Where a backbone came from, and how to recognise it: ``FlamingoConfig.backbones`` holds one for each ``part``."""
    saved = {"name": str(name_or_path), "revision": revision, "dtype": str(model.dtype).removeprefix("torch.")}
    return saved | {"fingerprint": _saved_fingerprint(part, model, saved)}


def _saved_fingerprint(part: str, model: PreTrainedModel, saved: dict[str, str | None]) -> str:
    """That of the weights as they are saved, from which ``model`` was loaded, quantised or in another precision.

    These are read a second time then, on the CPU: what was made of them tells nothing of them.
    """
    if is_quantised(model) or not _comparable(str(model.dtype), saved["dtype"] or ""):
        revision = {} if saved["revision"] is None else {"revision": saved["revision"]}
        model = LOADERS[part](saved["name"] or "", dtype=saved["dtype"], **revision)
    return fingerprint(model)


def is_quantised(model: nn.Module) -> bool:
    """Whether transformers has loaded it by a ``quantization_config``."""
    return getattr(model, "hf_quantizer", None) is not None


def check_unchanged(config: FlamingoConfig, backbones: dict[str, PreTrainedModel]) -> None:
    """Raise UserError unless these backbones can be left out of a checkpoint and found again by name."""
    if config.backbones is None:
        raise ValueError("the backbones of this model were not loaded by name, so a checkpoint cannot leave them out")
    for part, model in backbones.items():
        saved = config.backbones[part]
        if is_quantised(model):  # its own weights do not train, but those of an adapter do
            changed = any(parameter.requires_grad for parameter in model.parameters())
        else:
            changed = _comparable(str(model.dtype), saved["dtype"]) and fingerprint(model) != saved["fingerprint"]
        if changed:
            raise UserError(
                f"{part} has other weights than {saved['name']}, from which it was loaded: "
                "save it with include_backbones=True"
            )


def load_referenced_backbones(
    config: FlamingoConfig, vision_kwargs: dict[str, Any], text_kwargs: dict[str, Any], **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Vision encoder and language model that a checkpoint names, by default in the precision they had.

    ``kwargs`` go to the ``from_pretrained`` of both, the others to that of one, where they win.
    Raises UserError where their weights are not those that the checkpoint was trained with.
    """
    assert config.backbones is not None
    loaded = []
    for (part, load), own in zip(LOADERS.items(), (vision_kwargs, text_kwargs), strict=True):
        saved = config.backbones[part]
        revision = {} if saved["revision"] is None else {"revision": saved["revision"]}
        model = load(saved["name"], **{"dtype": saved["dtype"], **revision, **kwargs, **own})
        if _saved_fingerprint(part, model, saved) != saved["fingerprint"]:
            raise UserError(
                f"{saved['name']} (revision {saved['revision']}) does not hold the weights that this checkpoint "
                "was trained with"
            )
        loaded.append(model)
    return loaded[0], loaded[1]


def load_trained_parts(model: nn.Module, name_or_path: str | Path, left_out: tuple[str, ...], **hub: Any) -> None:
    """Load a checkpoint into all of ``model`` but the parts ``left_out``.

    Raises UserError, naming the file and the keys, unless the keys and shapes are exactly those.
    """
    path = cached_file(name_or_path, SAFE_WEIGHTS_NAME, **hub)
    try:
        keys = model.load_state_dict(load_file(path), strict=False)
    except RuntimeError as error:  # wrong shapes, which torch names
        raise UserError(f"{path}: {error}") from error
    missing = [key for key in keys.missing_keys if not key.startswith(left_out)]
    if missing or keys.unexpected_keys:
        raise UserError(f"{path}: missing keys {missing}, unexpected keys {keys.unexpected_keys}")


def _comparable(one: str, other: str) -> bool:
    """Whether fingerprints taken in these precisions agree: float16 rounds what they are taken of, the others don't."""
    return (one.removeprefix("torch.") == "float16") == (other.removeprefix("torch.") == "float16")
