"""The device of the model tests: ``pytest --device cuda``, or ``pretend``, which needs no other hardware."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch.overrides import TorchFunctionMode

from flamingo.utils.devices import use_device

#: What ``--device`` names. Processes that a test starts inherit it.
_VARIABLE = "FLAMINGO_TEST_DEVICE"
DEVICE = torch.device("cpu")
_TESTS = str(Path(__file__).parents[1])
#: Its functions stand for those that call them.
_NOTES_CALLS = str(Path(__file__).with_name("host_reads.py"))


def start(name: str | None = None) -> None:
    """Makes builders of models and inputs, and accelerate, use a device; None: the device of the parent process."""
    global DEVICE
    name = os.environ.setdefault(_VARIABLE, name or "cpu")
    if name == "pretend":
        from tests.helpers import pretend_device

        DEVICE = pretend_device.start()
        PartialState(cpu=True).device = DEVICE
        _TensorsOfTests().__enter__()
        return
    # Equal inputs give equal outputs: no kernel that adds in another order each time, and no rounding to TF32.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    DEVICE = use_device(name)
    if DEVICE.type != "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        _TensorsOfTests().__enter__()


class _TensorsOfTests(TorchFunctionMode):
    """Moves tensors that a test creates to the device. They are drawn on the CPU, so their values are the same.

    Tensors of the library, and those of a test with a generator, stay where they are created.
    """

    factories = (torch.tensor, torch.zeros, torch.ones, torch.full, torch.arange, torch.eye, torch.linspace)
    random = (torch.rand, torch.randn, torch.randint)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        caller = sys._getframe(1)
        if caller.f_code.co_filename == _NOTES_CALLS:
            assert caller.f_back is not None
            caller = caller.f_back
        is_test = caller.f_code.co_filename.startswith(_TESTS)
        made_by_test = function in self.factories + self.random and is_test
        if not made_by_test or kwargs.keys() & {"device", "generator"}:
            return function(*args, **kwargs)
        requires_grad = kwargs.pop("requires_grad", False)
        return function(*args, **kwargs).to(DEVICE).requires_grad_(requires_grad)


def moved(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch with its tensors on the device of the tests."""
    return {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares the results of two calls: equal bits on the CPU. A GPU may add in another order."""
    if DEVICE.type == "cpu":
        assert torch.equal(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def skip_unless_forked_processes_compute() -> None:
    """Skips a test that forks, since CUDA does not work in a process that was forked after its first use."""
    if DEVICE.type == "cuda":
        pytest.skip("a forked process cannot use CUDA")
