"""Defers the weights of a language model until it is sharded: each process reads only its own slices from the files.

A deferred language model is built on the meta device, by transformers' own ``from_pretrained``. The keys and shapes of
its files are checked at once. Its weights are read after ``fully_shard``, into the local
shards. Names, conversions and precision are those of an eager load, and so are all values, bit for bit.

transformers' own loader also reads slices into a sharded model. It slices before it converts weights, however, so that
weights that it concatenates or splits along their first axis get the wrong rows.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class

from flamingo.model.fingerprints import sampled
from flamingo.model.stored_weights import StoredWeights
from flamingo.model.weights_loading import check_keys, load_weights
from flamingo.utils.devices import HOST
from flamingo.utils.hub import from_pretrained

log = logging.getLogger(__name__)

#: A module and the name of its parameter or buffer.
_Slot = tuple[nn.Module, str]
#: A module, the name of a buffer that it computes, and its precision.
_Computed = tuple[nn.Module, str, torch.dtype]
#: The number of columns whose mean is computed at once. Blocks of a multiple of 32 columns give the same bits.
_COLUMNS = 512


def defer_weights(loader: Any, name_or_path: str | Path, part: str, **kwargs: Any) -> PreTrainedModel:
    """Returns a model on the meta device, whose weights :func:`load_deferred` reads later.

    Weights that are not in safetensors files, or are quantised, are loaded now and whole. A log line says so.

    Args:
        loader: The automatic class of transformers for the model.
        name_or_path: A folder, a name on the hub, or a GGUF file.
        part: The name of the part in errors.
        **kwargs: Further arguments of ``from_pretrained``, among them ``config``.

    Raises:
        UserError: If keys are missing, unexpected or of another shape; the error names them.
    """
    config = kwargs["config"]
    quantised = kwargs.get("quantization_config") or getattr(config, "quantization_config", None)
    if quantised is not None:
        return _load_whole(loader, name_or_path, part, "its weights are quantised or in a GGUF file", kwargs)
    kind = _get_model_class(config, loader._model_mapping)
    model = from_pretrained(_deferring(kind), name_or_path, part, **kwargs)
    model.__class__ = kind
    files, load_config = model.deferred_files
    del model.deferred_files
    if not all(str(file).endswith(".safetensors") for file in files):
        return _load_whole(loader, name_or_path, part, "its weights are not in safetensors files", kwargs)
    weights = StoredWeights(model, files, load_config)
    check_keys(model, weights.report, name_or_path, part)
    if weights.missing:
        return _load_whole(loader, name_or_path, part, f"its files lack {sorted(weights.missing)[0]}", kwargs)
    model.deferred_weights = DeferredWeights(model, weights)
    return model


def _load_whole(loader: Any, name_or_path: str | Path, part: str, reason: str, kwargs: dict[str, Any]) -> Any:
    log.warning("%s %s: %s, so every process loads it whole before it is sharded", part, name_or_path, reason)
    return load_weights(loader, name_or_path, part, **kwargs)


def _deferring(kind: type[PreTrainedModel]) -> Any:
    """Returns a subclass whose ``from_pretrained`` does everything but read weights. The model stays on meta."""

    class Deferring(kind):
        @staticmethod
        def _load_pretrained_model(model: Any, state_dict: None, checkpoint_files: list[str], load_config: Any) -> Any:
            model.deferred_files = (checkpoint_files, load_config)
            return None, None

        @staticmethod
        def _finalize_model_loading(model: Any, load_config: Any, loading_info: None) -> None:
            return None

    # transformers looks up conversions of weights by the name of the class.
    Deferring.__name__ = kind.__name__
    Deferring.__module__ = kind.__module__
    return Deferring


def is_deferred(model: nn.Module) -> bool:
    """Returns whether the weights of a language model have not been loaded yet."""
    return getattr(model, "deferred_weights", None) is not None


def load_deferred(language_model: nn.Module, device: torch.device) -> None:
    """Loads the weights of a deferred language model, and of a sharded one only the shards of this process.

    Args:
        language_model: A causal language model. An adapter may have wrapped its layers, and ``fully_shard`` may have
            sharded them. Without deferred weights nothing is done.
        device: The device of the weights.

    Raises:
        UserError: If a file has changed since the model was built.
    """
    if is_deferred(language_model):
        deferred: Any = language_model.deferred_weights
        deferred.load(language_model, device)
        language_model.deferred_weights = None  # type: ignore[assignment]


def move_present(language_model: nn.Module, device: torch.device) -> None:
    """Moves the parameters and buffers that are not on meta, which are those of an adapter."""
    for tensor in [*language_model.parameters(), *language_model.buffers()]:
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)


@contextmanager
def stand_ins(model: nn.Module) -> Iterator[None]:
    """Gives the parameters on meta values for the block: NaN on the CPU. They take no memory.

    What is computed from a parameter in the block, as the start values of some adapters are, is NaN.
    """
    empty: dict[int, Tensor] = {}
    slots = []
    for module in model.modules():
        for attribute, tensor in list(_own_tensors(module)):
            if tensor.is_meta and isinstance(tensor, nn.Parameter):
                if id(tensor) not in empty:
                    value = torch.tensor(float("nan"), dtype=tensor.dtype, device=HOST).expand(tensor.shape)
                    empty[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad)
                slots.append((module, attribute, tensor))
                setattr(module, attribute, empty[id(tensor)])
    try:
        yield
    finally:
        for module, attribute, tensor in slots:
            setattr(module, attribute, tensor)


class DeferredWeights:
    """The weights of a model on meta: their files, and the parameters and buffers that they fill."""

    def __init__(self, whole: PreTrainedModel, weights: StoredWeights) -> None:
        """Records the parameters and buffers before an adapter or sharding changes their names.

        Args:
            whole: The model of the files. The language model may be a part of it.
            weights: Its weights.
        """
        self._weights = weights
        self._slots = _slots(whole)
        #: The buffers that are not in the files.
        self._computed: list[_Computed] = []
        for module in whole.modules():
            module._is_hf_initialized = True  # nothing is drawn for weights of the files
            for name in module._non_persistent_buffers_set:
                buffer = module._buffers[name]
                if buffer is not None:
                    self._computed.append((module, name, buffer.dtype))

    def load(self, language_model: Any, device: torch.device) -> None:
        """Fills the parameters and buffers of the language model; of sharded ones the shards of this process."""
        modules = set(language_model.modules())
        with self._weights.opened() as files, torch.no_grad():
            for name, values in self._weights.each(files):
                slots = self._slots[name]
                if slots[0][0] in modules:
                    _fill(slots, values, self._weights.dtype(name), device)
        computed = [slot for slot in self._computed if slot[0] in modules]
        _compute_buffers(language_model, computed, device)
        assert not any(tensor.is_meta for tensor in language_model.state_dict().values())

    def samples(self, language_model: nn.Module) -> Iterator[tuple[tuple[int, ...], Shaped[Tensor, " values"]]]:
        """Yields the shape and the values of :func:`sampled` for each entry of the language model's state."""
        modules = set(language_model.modules())
        with self._weights.opened() as files:
            for name, values in self._weights.each(files):
                values_of_load = sampled(values).to(self._weights.dtype(name))
                for module, _ in self._slots[name]:
                    if module in modules:
                        yield tuple(values.shape), values_of_load

    def mean_row(self, module: nn.Module) -> Float[Tensor, " d"]:
        """Returns the mean of the rows of a module's weight."""
        for name in self._weights.names():
            if (module, "weight") in self._slots[name]:
                break
        with self._weights.opened() as files:
            rows = self._weights.get(name, files)
            means = []
            for columns in rows.split(_COLUMNS, dim=1):
                means.append(columns.to(self._weights.dtype(name)).mean(dim=0))
            return torch.cat(means)


def mean_row(language_model: Any, module: Any) -> Float[Tensor, " d"]:
    """Returns the mean of the rows of a weight, also if it is read later.

    Args:
        language_model: The language model.
        module: Its embedding or its output head.
    """
    if is_deferred(language_model):
        return language_model.deferred_weights.mean_row(module)
    return module.weight.mean(dim=0)


def _slots(model: nn.Module) -> dict[str, list[_Slot]]:
    """Returns for the name of each weight the module and attribute of all that share it."""
    sharing: dict[int, list[_Slot]] = defaultdict(list)
    for module in model.modules():
        for attribute, tensor in _own_tensors(module):
            sharing[id(tensor)].append((module, attribute))
    slots = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, tensor in _own_tensors(module):
            name = f"{prefix}.{attribute}" if prefix else attribute
            slots[name] = sharing[id(tensor)]
    return slots


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for tensors in (module._parameters, module._buffers):
        for attribute, tensor in tensors.items():
            if tensor is not None:
                yield attribute, tensor


def _fill(slots: list[_Slot], values: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Puts a weight, or this process's shard of it, into all modules that share it.

    Args:
        slots: The modules and their attributes, of which the first one has the empty weight.
        values: The whole weight, in the precision of its file.
        dtype: The precision in which an eager load reads the weight. The model may have changed its own since.
        device: The device of the weight.
    """
    module, attribute = slots[0]
    empty = getattr(module, attribute)
    if isinstance(empty, DTensor):
        shape, offsets = compute_local_shape_and_global_offset(empty.shape, empty.device_mesh, empty.placements)
        for axis, (start, length) in enumerate(zip(offsets, shape, strict=True)):
            values = values.narrow(axis, start, length)
    # A copy of its own: the values are mapped from the file.
    filled = torch.empty(values.shape, dtype=empty.dtype, device=device).copy_(values.to(dtype))
    if isinstance(empty, DTensor):
        filled = DTensor.from_local(
            filled, empty.device_mesh, empty.placements, run_check=False, shape=empty.shape, stride=empty.stride()
        )
    if isinstance(empty, nn.Parameter):
        filled = nn.Parameter(filled, requires_grad=empty.requires_grad)
    for module, attribute in slots:
        setattr(module, attribute, filled)


def _compute_buffers(language_model: Any, computed: list[_Computed], device: torch.device) -> None:
    """Computes the buffers that are not in the files, such as rotary frequencies, as an eager load does: on the CPU."""
    # All modules initialise what has no mark: some fill the buffers of others.
    for tensor in [*language_model.parameters(), *language_model.buffers()]:
        tensor._is_hf_initialized = True
    for module in language_model.modules():
        module._is_hf_initialized = False
    present_dtypes = []
    for module, name, dtype in computed:
        empty: Any = module._buffers[name]
        present_dtypes.append(empty.dtype)
        module._buffers[name] = torch.empty_like(empty, dtype=dtype, device=HOST)
    language_model.initialize_weights()
    for (module, name, _), dtype in zip(computed, present_dtypes, strict=True):
        filled: Any = module._buffers[name]
        module._buffers[name] = filled.to(device, dtype)
