"""The largest relative errors of a training, compared with another one."""

import torch
from torch import Tensor

from tests.training.parallel.recorded_run import Record

#: A gradient that is zero in exact arithmetic (key biases) is noise, and so is what AdamW makes of a tensor that began
#: with zeros. Their errors are relative to this fraction of the whole gradient's norm, and to this norm.
SMALLEST_GRADIENT, SMALLEST_WEIGHT = 1e-7, 1e-6


def errors(actual: Record, expected: Record) -> dict[str, float]:
    """Returns the largest relative errors of gradients, norms, losses and weights."""
    assert actual.gradients.keys() == expected.gradients.keys()
    whole = _joined(expected.gradients).norm()
    return {
        "gradients": error_of_tensors(actual.gradients, expected.gradients, SMALLEST_GRADIENT * float(whole)),
        "norms": error_of_numbers(actual.norms, expected.norms),
        "losses": error_of_numbers(actual.losses, expected.losses),
        "weights": error_of_weights(actual.weights, expected.weights),
    }


def error_of_weights(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return error_of_tensors(actual, expected, SMALLEST_WEIGHT)


def error_of_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor], smallest: float) -> float:
    """Returns the largest error, relative to the norm of each tensor, or to ``smallest`` if that is more."""
    assert actual.keys() == expected.keys()
    found = []
    for name, tensor in expected.items():
        error = (actual[name] - tensor).double().norm()
        found.append(float(error / tensor.double().norm().clamp(min=smallest)))
    return max(found)


def error_of_whole(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Returns the error of all tensors together, relative to their norm."""
    assert actual.keys() == expected.keys()
    return float((_joined(actual) - _joined(expected)).norm() / _joined(expected).norm())


def _joined(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def error_of_numbers(actual: list[float], expected: list[float]) -> float:
    """Returns the largest relative error."""
    return max(abs(a - b) / abs(b) for a, b in zip(actual, expected, strict=True))
