"""The weights of a model in safetensors files, with the names and conversions that transformers gives them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    build_glob_alternation,
    dot_natural_key,
    rename_source_key,
)

from flamingo.utils.devices import META

#: The open file of each key.
Files = dict[str, Any]


@dataclass
class _Source:
    """The tensors of the files that make a weight; with a converter, several weights."""

    #: Their keys, and the pattern of the conversion that each key matches.
    keys: list[tuple[str, str | None]] = field(default_factory=list)
    #: None if the first tensor is the weight.
    converter: WeightConverter | None = None


class StoredWeights:
    """Reads the weights of a model one by one. A tensor is mapped from its file, and so takes no memory by itself."""

    def __init__(self, model: PreTrainedModel, files: Sequence[str], load_config: Any) -> None:
        """Assigns the tensors of the files to the weights of the model.

        The model gets the precision and the tied weights of an eager load.

        Args:
            model: A model on meta, whose weights are not tied yet.
            files: Its safetensors files.
            load_config: The ``LoadStateDictConfig`` of transformers for this load.
        """
        self._files = tuple(files)
        self._config = model.config
        self._sources: dict[str, _Source] = {}
        _keep_float32(model, load_config.dtype_plan)
        #: The weights of the model as meta tensors.
        self._state = dict(model.state_dict())
        unexpected = set()
        transforms = load_config.weight_mapping or []
        with self.opened() as files_by_key:
            for key in sorted(files_by_key, key=dot_natural_key):
                name, pattern = _renamed(key, model, self._state, transforms)
                if name in self._state:
                    self._assign(key, name, pattern, transforms)
                else:
                    unexpected.add(name)
            shapes = {name: tensor.shape for name, tensor in self._each(partial(_on_meta, files_by_key))}
            missing = set(self._state) - set(shapes)
            self._tie(model, missing, partial(_from_file, files_by_key))
        #: The weights that the files lack. transformers initialises some, which are not in the report.
        self.missing = frozenset(missing)
        report = SimpleNamespace(missing_keys=missing, unexpected_keys=unexpected | set(shapes) - set(self._state))
        model._adjust_missing_and_unexpected_keys(report)
        model._weight_conversions = [transform for transform in transforms if transform.was_used()]
        mismatched = []
        for name, weight in self._state.items():
            if name in shapes and shapes[name] != weight.shape:
                mismatched.append((name,))
        #: The report of transformers on keys that do not fit.
        self.report = {
            "missing_keys": report.missing_keys,
            "unexpected_keys": report.unexpected_keys,
            "mismatched_keys": mismatched,
        }

    @contextmanager
    def opened(self) -> Iterator[Files]:
        """Yields the open file of each key."""
        with ExitStack() as stack:
            files_by_key = {}
            for path in self._files:
                file = stack.enter_context(safe_open(path, framework="pt"))
                for key in file.keys():  # noqa: SIM118
                    files_by_key[key] = file
            yield files_by_key

    def each(self, files_by_key: Files) -> Iterator[tuple[str, Shaped[Tensor, "..."]]]:
        """Yields each weight with its name. A weight that is not converted has the precision of its file."""
        yield from self._each(partial(_from_file, files_by_key))

    def names(self) -> list[str]:
        """Returns the names of the weights. Of several that one conversion makes, it is the first."""
        return list(self._sources)

    def get(self, name: str, files_by_key: Files) -> Shaped[Tensor, "..."]:
        """Returns one weight."""
        return self._weights_of(name, self._sources[name], partial(_from_file, files_by_key))[name]

    def dtype(self, name: str) -> torch.dtype:
        """Returns the precision that an eager load gives a weight."""
        return self._state[name].dtype

    def _each(self, read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, source in self._sources.items():
            yield from self._weights_of(name, source, read).items()

    def _weights_of(self, name: str, source: _Source, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Returns the weight ``name``, and the others that the same tensors make."""
        if source.converter is None:
            return {name: read(source.keys[0][0])}
        converter = copy.deepcopy(source.converter)
        dtype = self._state[name].dtype
        for key, pattern in source.keys:
            converter.add_tensor(name, key, pattern, read(key).to(dtype))
        # An operation may ask the model for the shape of a weight, whose name an adapter changes later.
        shapes: Any = SimpleNamespace(get_parameter=self._state.__getitem__)
        weights = {}
        for target, tensors in converter.convert(name, model=shapes, config=self._config).items():
            weights[target] = tensors[0] if isinstance(tensors, list) else tensors
        return weights

    def _assign(self, key: str, name: str, pattern: str | None, transforms: Sequence[Any]) -> None:
        source = self._sources.setdefault(name, _Source())
        source.keys.append((key, pattern))
        if pattern is not None:
            [source.converter] = [one for one in _converters(transforms) if pattern in one.source_patterns]

    def _tie(self, model: PreTrainedModel, missing: set[str], read: Callable[[str], Tensor]) -> None:
        """Ties weights as transformers does: to the one in the files, and not at all if the files have two values."""
        for target, other in list(model.all_tied_weights_keys.items()):
            if target not in self._sources or other not in self._sources:
                continue
            values = self._weights_of(target, self._sources[target], read)[target]
            other_values = self._weights_of(other, self._sources[other], read)[other]
            if torch.equal(values, other_values):
                del self._sources[target]
                missing.add(target)
            else:
                model.all_tied_weights_keys.pop(target)
        model.tie_weights(missing_keys=missing, recompute_mapping=False)


def _converters(transforms: Sequence[Any]) -> list[WeightConverter]:
    return [transform for transform in transforms if isinstance(transform, WeightConverter)]


def _renamed(key: str, model: PreTrainedModel, state: dict[str, Tensor], transforms: Sequence[Any]) -> Any:
    """Returns the name of the weight that a key of a file belongs to, and the pattern of its conversion, if any."""
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    prefix = model.base_model_prefix
    name, pattern = rename_source_key(key, renamings, _converters(transforms), prefix, state)
    if name not in state and key in state:
        name, pattern = rename_source_key(key, [], [], prefix, state)
    return name, pattern


def _from_file(files_by_key: Files, key: str) -> Tensor:
    return files_by_key[key].get_tensor(key)


def _on_meta(files_by_key: Files, key: str) -> Tensor:
    """Returns a tensor on meta of the shape in the file."""
    return torch.empty(files_by_key[key].get_slice(key).get_shape(), device=META)


def _keep_float32(model: PreTrainedModel, dtype_plan: dict[str, torch.dtype] | None) -> None:
    """Sets the precision of the weights that a model keeps in float32."""
    if not dtype_plan:
        return
    kept, *_ = build_glob_alternation(list(dtype_plan))
    stored = model.state_dict(keep_vars=True)
    for name, tensor in stored.items():
        if kept.search(name):
            path, _, attribute = name.rpartition(".")
            wide = tensor.detach().float()
            if isinstance(tensor, nn.Parameter):
                wide = nn.Parameter(wide, tensor.requires_grad)
            setattr(model.get_submodule(path), attribute, wide)
