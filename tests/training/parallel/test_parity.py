"""Every engine trains as one process does that gets the same batches: gradients, norms, losses and weights."""

from functools import cache

import pytest
import torch

from flamingo.training.optim import OPTIMIZERS, AdamWConfig, MuonConfig
from tests.training.parallel import optimizers
from tests.training.parallel.cases import CASES
from tests.training.parallel.recorded_run import run_alone, run_together

#: The relative error of a first gradient, of a norm and of a loss.
CLOSE = 1e-5
#: A gradient that is zero in exact arithmetic (key biases) is noise, and so is what AdamW makes of a tensor that began
#: with zeros. Their errors are compared with this fraction of the whole gradient's norm, and with this norm.
SMALLEST_GRADIENT, SMALLEST_WEIGHT = 1e-7, 1e-6
STEPS = 20
SETTINGS = {"gate_lr": 1e-2, "warmup_steps": 2, "weight_decay": 0.1}
ADAMW = AdamWConfig(lr=1e-3, **SETTINGS)
#: An optimizer, and the relative error of weights after 20 of its steps.
#:
#: Muon rounds a gathered gradient to bf16, and its five Newton-Schulz steps raise an error in a small singular value by
#: at most 3.4445^5 = 485. Gradients of float64 differ by 1e-14, so that one in 1e11 is rounded to the other side. One
#: such entry of a 32x24 matrix changes the normalized matrix by 2^-8 / sqrt(768), the update by 485 times that = 0.07,
#: and the weights by lr * 0.2 * sqrt(32) * 0.07 = 8e-5, of a norm of 0.6 or more: 1e-3 covers several such steps.
OPTIMIZERS_AND_ERRORS = {
    "adamw": (ADAMW, 1e-3),
    "sgd": (optimizers.SGDConfig(lr=0.05, **SETTINGS), 1e-5),
    "muon": (MuonConfig(lr=1e-3, **SETTINGS), 1e-3),
}
ENGINES = ("ddp",)


@pytest.fixture(scope="module")
def alone(backbones, tmp_path_factory):
    """Returns a function: names of a case and an optimizer -> the training, and its record in one process."""

    @cache
    def of(case, optimizer="adamw"):
        training, output = CASES[case](backbones), tmp_path_factory.mktemp(case)
        return training, run_alone(training, OPTIMIZERS_AND_ERRORS[optimizer][0], STEPS, output)

    OPTIMIZERS["sgd"] = optimizers.KIND
    yield of
    del OPTIMIZERS["sgd"]


def errors(actual, expected):
    """The largest relative errors of gradients, norms, losses and weights."""
    assert actual.gradients.keys() == expected.gradients.keys() == expected.weights.keys() == actual.weights.keys()
    whole = torch.cat([gradient.double().flatten() for gradient in expected.gradients.values()]).norm()
    return {
        "gradients": largest_of_tensors(actual.gradients, expected.gradients, SMALLEST_GRADIENT * whole),
        "norms": largest(actual.norms, expected.norms),
        "losses": largest(actual.losses, expected.losses),
        "weights": largest_of_tensors(actual.weights, expected.weights, SMALLEST_WEIGHT),
    }


def largest_of_tensors(actual, expected, smallest):
    """Relative to the norm of each tensor, or to ``smallest``."""
    found = []
    for name, tensor in expected.items():
        error = (actual[name] - tensor).double().norm()
        found.append(float(error / tensor.double().norm().clamp(min=smallest)))
    return max(found)


def largest(actual, expected):
    return max(abs(a - b) / abs(b) for a, b in zip(actual, expected, strict=True))


def assert_equal(actual, expected, largest_error_of_weights=1e-3):
    found = errors(actual, expected)
    print(found)
    assert len(actual.losses) == STEPS
    assert max(found["gradients"], found["norms"], found["losses"]) <= CLOSE, found
    assert found["weights"] <= largest_error_of_weights, found


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(alone, tmp_path, engine, case):
    training, expected = alone(case)
    assert_equal(run_together(engine, 2, training, ADAMW, STEPS, tmp_path), expected)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [1, 4])
def test_one_and_four_processes_train_as_one(alone, tmp_path, engine, size):
    training, expected = alone("untied")
    assert_equal(run_together(engine, size, training, ADAMW, STEPS, tmp_path), expected)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_weights_of_other_optimizers_are_equal(alone, tmp_path, engine, optimizer):
    training, expected = alone("untied", optimizer)
    config, largest_error = OPTIMIZERS_AND_ERRORS[optimizer]
    assert_equal(run_together(engine, 2, training, config, STEPS, tmp_path), expected, largest_error)
