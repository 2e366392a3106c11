"""A pretended device in the CPU's memory. As on a GPU, no operation mixes its tensors with those of the CPU."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_NAME = "pretend"
_OPERATIONS = torch.ops.aten


class PretendTensor(Tensor):
    """A tensor on the pretended device, with its values."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "PretendTensor":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(_NAME, 0),
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"PretendTensor({self.values})"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = PretendTensor(self.detach().values.clone())
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def data_ptr(self) -> int:
        return self.detach().values.data_ptr()

    def untyped_storage(self) -> Any:
        return self.detach().values.untyped_storage()

    def tolist(self) -> Any:
        return self.detach().values.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().values.numpy()
        raise TypeError("a tensor of a device has no NumPy array")


class _Module:
    """The module ``torch.pretend`` that torch needs for a device. Random numbers are those of the CPU."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def device(self, index: int) -> Any:
        return nullcontext()

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _PretendMode(TorchDispatchMode):
    """Moves tensors of the CPU to the pretended device when an operation names it as the target."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _FactoryMode(TorchFunctionMode):
    """Makes ``torch.tensor(..., device=...)`` a tensor of the CPU that moves."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == _NAME:
            return function(*args, **kwargs | {"device": "cpu"}).to(device)
        return function(*args, **kwargs)


def start() -> torch.device:
    """Starts to pretend for the rest of the process, and returns the device."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(_NAME, backend_module=_Module())
    _PretendMode().__enter__()
    _FactoryMode().__enter__()
    torch.autograd.set_multithreading_enabled(False)  # a thread for the device would know nothing of the mode
    return torch.device(_NAME, 0)


def _values(value: Any) -> Any:
    return value.values if isinstance(value, PretendTensor) else value


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    pretended = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    if operation is _OPERATIONS.copy_.default:
        _values(args[0]).copy_(_values(args[1]))
        return args[0]
    _check_one_device(operation, tensors, pretended)
    device = kwargs.get("device")
    stays = bool(pretended) if device is None else torch.device(device).type == _NAME
    if device is not None:
        kwargs = kwargs | {"device": "cpu"}
    result = operation(*tree_map(_values, args), **tree_map(_values, kwargs))
    if not stays:
        return result
    # An operation in place returns its argument.
    arguments = {id(tensor.values): tensor for tensor in pretended}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return arguments[id(value)] if id(value) in arguments else PretendTensor(value)

    return tree_map(wrapped, result)


def _check_one_device(operation: Any, tensors: list[Tensor], pretended: list[Tensor]) -> None:
    """Raises RuntimeError for tensors of both devices. Numbers and indices of the CPU may meet any tensor."""
    others = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.ndim > 0]
    indexes = operation in (_OPERATIONS.index.Tensor, _OPERATIONS.index_put_.default, _OPERATIONS.index_put.default)
    if pretended and others and not (indexes and isinstance(tensors[0], PretendTensor)):
        raise RuntimeError(f"{operation}: tensors on {_NAME} and on the CPU")
