"""Frozen backbones: loaded by name or path, and recognised when a checkpoint only names them."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from flamingo.model.config import FlamingoConfig
from flamingo.model.encoders import vision_class, vision_config
from flamingo.model.language import hub_arguments, load_text_model
from flamingo.model.loading import load_weights
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: What errors call it.
_PART = "vision encoder"
#: What the keys of a vision tower begin with in the checkpoint of a whole model.
_TOWER = r"^(?:\w+\.)*?(?:vision_tower|vision_model|vision_encoder|visual|image_encoder|image_model)\."
#: The argument of ``from_pretrained`` that says where a part lies.
GIVEN_BY = {"vision_model": "vision_model_name_or_path", "language_model": "text_model_name_or_path"}
_PACKAGE = Path(__file__).parents[1]


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
    name = str(Path(name_or_path).resolve()) if Path(name_or_path).exists() else str(name_or_path)
    saved = {"name": name, "revision": revision, "dtype": str(model.dtype).removeprefix("torch.")}
    return saved | {"fingerprint": _saved_fingerprint(part, model, saved)}


def beside(backbones: dict[str, dict[str, Any]], checkpoint: Path) -> dict[str, dict[str, Any]]:
    """``FlamingoConfig.backbones`` where folders are also named as seen from ``checkpoint`` and from this package.

    So they are found again when they are moved together, and when the package that ships them is installed elsewhere.
    """
    located = {}
    for part, saved in backbones.items():
        path = Path(saved["name"])
        places: dict[str, str | None] = {"relative": None, "in_package": None}
        if path.exists():
            places["relative"] = os.path.relpath(path, checkpoint.resolve())
            places["in_package"] = str(path.relative_to(_PACKAGE)) if path.is_relative_to(_PACKAGE) else None
        located[part] = saved | places
    return located


def _located(part: str, saved: dict[str, Any], checkpoint: str | Path, given: str | Path | None) -> str:
    """The folder or name on the hub of a backbone that a checkpoint leaves out; ``given`` wins.

    Raises UserError, naming the part, the places and what to pass, where a folder is in none of its places.
    """
    if given is not None:
        return str(given)
    places = [Path(saved["name"])]
    if saved.get("relative") is not None:
        places.append(Path(checkpoint, saved["relative"]))
    if saved.get("in_package") is not None:
        places.append(_PACKAGE / saved["in_package"])
    for path in places:
        if path.exists():
            return str(path.resolve())
    if len(places) == 1 and not places[0].is_absolute():
        return saved["name"]  # on the hub
    raise UserError(
        f"the {part.replace('_', ' ')} of the checkpoint {checkpoint} is at none of {', '.join(map(str, places))}: "
        f"pass {GIVEN_BY[part]}=FOLDER to from_pretrained, or correct backbones.{part}.name in its config.json"
    )


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
    config: FlamingoConfig,
    checkpoint: str | Path,
    given: dict[str, str | Path | None],
    vision_kwargs: dict[str, Any],
    text_kwargs: dict[str, Any],
    **kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Vision encoder and language model that a checkpoint names, by default in the precision they had.

    ``given`` is where each part lies, if not where the checkpoint says. ``kwargs`` go to the ``from_pretrained`` of
    both, the others to that of one, where they win.
    Raises UserError where they are not found, and where their weights are not those that the checkpoint was trained
    with.
    """
    assert config.backbones is not None
    loaded = []
    for (part, load), own in zip(LOADERS.items(), (vision_kwargs, text_kwargs), strict=True):
        saved = config.backbones[part]
        saved["name"] = _located(part, saved, checkpoint, given[part])
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
    except (RuntimeError, SafetensorError) as error:  # wrong shapes, which torch names, or a damaged file
        raise UserError(f"{path}: {error}") from error
    missing = [key for key in keys.missing_keys if not key.startswith(left_out)]
    if missing or keys.unexpected_keys:
        raise UserError(f"{path}: missing keys {missing}, unexpected keys {keys.unexpected_keys}")


def _comparable(one: str, other: str) -> bool:
    """Whether fingerprints taken in these precisions agree: float16 rounds what they are taken of, the others don't."""
    return (one.removeprefix("torch.") == "float16") == (other.removeprefix("torch.") == "float16")
