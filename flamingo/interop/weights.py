"""Weights read from files that are not trusted, and copied into a model under other names."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flamingo.utils.errors import UserError

#: What transformers of 2023 saved beside the weights: masks and frequencies, which are computed today.
BUFFERS = re.compile(r".*(\.rotary_emb\.inv_freq|\.(attn|attention)\.(bias|masked_bias)|\.embeddings\.position_ids)")

#: Our keys, each with theirs. Where two of ours have the same, theirs is the one on top of the other.
Names = dict[str, str]


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.pt``, ``.bin`` or ``.safetensors`` file, or of a folder that holds a model in such files.

    A training file is unwrapped: ``model_state_dict``, and ``module.`` before its keys. Buffers that old versions of
    transformers saved are left out. Raises UserError, naming the file, unless it holds tensors and nothing else:
    pickled code is never run.
    """
    if path.is_dir():
        files = sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
        if not files:
            raise UserError(f"{path} holds neither model.safetensors nor pytorch_model.bin")
    elif path.is_file():
        files = [path]
    else:
        raise UserError(f"there is no {path}")
    weights = {key: tensor for file in files for key, tensor in _read_file(file).items()}
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
    except Exception as error:  # whatever a damaged or forged file may lead to
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {reason}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("model_state_dict"), dict):
        loaded = loaded["model_state_dict"]
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors")
    for key, value in loaded.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(f"{path} holds a {type(value).__name__} under {key!r}, not a tensor")
    return loaded


def renamed(keys: Iterable[str], table: dict[str, str]) -> Names:
    """Each key with what it is called by the first pattern of ``table`` that matches all of it."""
    names = {}
    for key in keys:
        found = (match.expand(theirs) for ours, theirs in table.items() if (match := re.fullmatch(ours, key)))
        names[key] = next(found, "")
        assert names[key], f"the table has nothing for {key}"
    return names


def fill(model: nn.Module, weights: dict[str, Tensor], names: Names, source: Path) -> None:
    """Copy ``weights`` to where ``names`` says.

    Axes of length one may be more or fewer. Raises UserError, naming ``source`` and the keys, and leaves the
    model as it is, unless these are exactly the keys, and the shapes fit.
    """
    wanted = _by_their_names(model, names)
    missing, left_over = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if missing or left_over:
        raise UserError(f"{source} does not fit: missing keys {_some(missing)}, left-over keys {_some(left_over)}")
    for key, ours in wanted.items():
        shape = _shape(ours)
        if [n for n in shape if n > 1] != [n for n in weights[key].shape if n > 1]:
            raise UserError(f"{source}: {key} has the shape {list(weights[key].shape)}, where {shape} is needed")
    for key, ours in wanted.items():
        parts = weights[key].reshape(_shape(ours)).split([len(tensor) for tensor in ours])
        for tensor, part in zip(ours, parts, strict=True):
            tensor.copy_(part)


def gathered(model: nn.Module, names: Names) -> dict[str, Tensor]:
    """The other way: the model's weights under their names."""
    return {key: torch.cat(ours) for key, ours in _by_their_names(model, names).items()}


def _by_their_names(model: nn.Module, names: Names) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for key, tensor in model.state_dict().items():
        if key in names:
            found.setdefault(names[key], []).append(tensor)
    return found


def _shape(stacked: list[Tensor]) -> list[int]:
    return [sum(len(tensor) for tensor in stacked), *stacked[0].shape[1:]]


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return (", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")) or "none"
