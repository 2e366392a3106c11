"""The device of the tests of models: ``pytest --device cuda``, or ``pretend``, which needs no other hardware."""

import os

import torch
from accelerate import PartialState

from flamingo.utils.devices import use_device

#: What ``--device`` names. Processes that a test starts inherit it.
_VARIABLE = "FLAMINGO_TEST_DEVICE"
DEVICE = torch.device("cpu")


def start(name: str | None = None) -> None:
    """Lets builders of models and inputs, and accelerate, use a device; None: the one of the process before."""
    global DEVICE
    name = os.environ.setdefault(_VARIABLE, name or "cpu")
    if name == "pretend":
        from tests.helpers import pretend_device

        DEVICE = pretend_device.start()
        PartialState(cpu=True).device = DEVICE
        return
    # Equal inputs give equal outputs: no kernel that adds in another order each time, and no rounding to TF32.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    DEVICE = use_device(name)
    if DEVICE.type != "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)


def moved(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a batch on the device of the tests."""
    return {name: value.to(DEVICE) for name, value in values.items()}
