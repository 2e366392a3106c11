"""Weights read from untrusted files, and copied into a model under other names."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors.torch import load_file
from torch import Tensor, nn

from flamingo.utils.errors import UserError

#: Buffers that transformers saved with the weights in 2023: masks and frequencies, which are now computed.
BUFFERS = re.compile(r".*(\.rotary_emb\.inv_freq|\.(attn|attention)\.(bias|masked_bias)|\.embeddings\.position_ids)")

#: The largest number of keys that an error names.
_SHOWN_KEYS = 5

#: Our state-dict key -> theirs. If two of ours have the same one, their tensor is the concatenation of the two.
Names = dict[str, str]


def read_weights(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns all tensors of a ``.pt``, ``.bin`` or ``.safetensors`` file, or of a folder with a model in such files.

    A training file is unwrapped: ``model_state_dict``, and ``module.`` before its keys. Buffers that old versions of
    transformers saved are left out. Pickled code is never run.

    Raises:
        UserError: If the file contains anything but tensors; the error names the file.
    """
    if path.is_dir():
        files = sorted(path.glob("model*.safetensors"))
        if not files:
            files = sorted(path.glob("pytorch_model*.bin"))
        if not files:
            raise UserError(f"{path} holds neither model.safetensors nor pytorch_model.bin")
    elif path.is_file():
        files = [path]
    else:
        raise UserError(f"there is no {path}")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _read_file(file)
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    return {key: tensor for key, tensor in weights.items() if not BUFFERS.fullmatch(key)}


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged, or holds pickled code, which is never run") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged or forged file may raise anything
        kind = type(error).__name__
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read: {kind}: {reason}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("model_state_dict"), dict):
        loaded = loaded["model_state_dict"]
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} holds a {type(value).__name__} under {key!r}, not a tensor")
    return loaded


def renamed(keys: Iterable[str], table: dict[str, str]) -> Names:
    """Returns the new name of each key, by the first pattern of ``table`` that matches the whole key."""
    return {key: _renamed(key, table) for key in keys}


def _renamed(key: str, table: dict[str, str]) -> str:
    for pattern, template in table.items():
        match = re.fullmatch(pattern, key)
        if match is not None:
            return match.expand(template)
    raise AssertionError(f"the table has no pattern for {key}")


def feedforward_patterns(pattern: str, template: str, parts: dict[str, str]) -> dict[str, str]:
    """Returns the rows of a table for the parts of a feed-forward.

    Args:
        pattern: The pattern of our key of the feed-forward.
        template: The template of their key.
        parts: Our name of each part -> theirs.
    """
    rows = {}
    for part, name in parts.items():
        rows[rf"{pattern}\.{part}\.(.*)"] = rf"{template}.{name}.\2"
    return rows


def fill(model: nn.Module, weights: dict[str, Shaped[Tensor, "..."]], names: Names, source: Path) -> None:
    """Copies ``weights`` into the model, by ``names``. The numbers of axes of length one may differ.

    Args:
        model: The model.
        weights: Their weights.
        names: Our key -> theirs.
        source: The file of the weights, for errors.

    Raises:
        UserError: If keys are missing or left over, or a shape does not fit; the model does not change then.
    """
    parameters = _by_their_names(model, names)
    missing = parameters.keys() - weights.keys()
    left_over = weights.keys() - parameters.keys()
    if missing or left_over:
        raise UserError(f"{source} does not fit: missing keys {_some(missing)}, left-over keys {_some(left_over)}")
    for key, ours in parameters.items():
        shape = _shape(ours)
        their_shape = list(weights[key].shape)
        if _without_ones(shape) != _without_ones(their_shape):
            raise UserError(f"{source}: {key} has the shape {their_shape}, where {shape} is needed")
    for key, ours in parameters.items():
        lengths = [len(tensor) for tensor in ours]
        concatenated = weights[key].reshape(_shape(ours))
        parts = concatenated.split(lengths)
        for tensor, part in zip(ours, parts, strict=True):
            tensor.copy_(part)


def gathered(model: nn.Module, names: Names) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the model's weights under their names: the inverse of :func:`fill`."""
    parameters = _by_their_names(model, names)
    return {key: torch.cat(ours) for key, ours in parameters.items()}


def _by_their_names(model: nn.Module, names: Names) -> dict[str, list[Tensor]]:
    """Returns our tensors by their names. Two tensors of ours may have one name."""
    tensors: dict[str, list[Tensor]] = {}
    for key, tensor in model.state_dict().items():
        if key in names:
            tensors.setdefault(names[key], []).append(tensor)
    return tensors


def _shape(tensors: list[Tensor]) -> list[int]:
    """Returns the shape of the concatenated tensors."""
    shape = list(tensors[0].shape)
    shape[0] = sum(len(tensor) for tensor in tensors)
    return shape


def _without_ones(shape: list[int]) -> list[int]:
    return [length for length in shape if length > 1]


def _some(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    if not ordered:
        return "none"
    text = ", ".join(ordered[:_SHOWN_KEYS])
    if len(ordered) > _SHOWN_KEYS:
        return f"{text} and {len(ordered) - _SHOWN_KEYS} more"
    return text
