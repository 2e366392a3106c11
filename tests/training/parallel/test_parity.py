"""Every engine trains as one process does that gets the same batches: gradients, norms, losses and weights."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest

from flamingo.training import ParallelConfig
from flamingo.training.optim import OPTIMIZERS, AdamWConfig, MuonConfig
from tests.training.parallel import optimizers
from tests.training.parallel.cases import CASES, in_bf16, in_float64
from tests.training.parallel.comparison import error_of_numbers, error_of_whole, errors
from tests.training.parallel.recorded_run import run_alone, run_together

#: The relative error of a first gradient, of a norm and of a loss. They differ by 1e-15, or by 1e-8 after the norms of
#: Llama, which compute in float32, have rounded one number to the other side.
CLOSE = 1e-6
STEPS = 20
#: Every gradient is clipped, so that a wrong norm changes the weights.
SETTINGS = {"gate_lr": 1e-2, "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.1}
ADAMW = AdamWConfig(lr=1e-3, **SETTINGS)
#: An optimizer, and the relative error of weights after 20 of its steps.
#:
#: Muon rounds a gathered gradient to bf16, and its five Newton-Schulz steps raise an error in a small singular value by
#: at most 3.4445^5 = 485. Gradients of float64 differ by 1e-14, so that one in 1e11 is rounded to the other side. One
#: such entry of a 32x24 matrix changes the normalized matrix by 2^-8 / sqrt(768), the update by 485 times that = 0.07,
#: and the weights by lr * 0.2 * sqrt(32) * 0.07 = 8e-5, of a norm of 0.6 or more: 1e-3 covers several such steps.
OPTIMIZERS_AND_ERRORS = {
    "adamw": (ADAMW, 1e-5),
    "sgd": (optimizers.SGDConfig(lr=1.0, **SETTINGS), 1e-6),
    "muon": (MuonConfig(lr=1e-3, **SETTINGS), 1e-3),
}
ENGINES = {
    "ddp": ParallelConfig("ddp"),
    "fsdp2": ParallelConfig("fsdp2"),
    # Two copies of the weights: of one shard each with two processes.
    "hsdp": ParallelConfig("hsdp", shard_size=1),
}


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


def assert_equal(actual, expected, optimizer="adamw", steps=STEPS):
    found = errors(actual, expected)
    print(found)  # pytest -rP shows the figures
    assert len(actual.losses) == steps
    assert max(found["gradients"], found["norms"], found["losses"]) <= CLOSE, found
    assert found["weights"] <= OPTIMIZERS_AND_ERRORS[optimizer][1], found


def test_two_processes_with_shards_train_as_one(backbones, tmp_path):
    """Two batches of two data sets in each process, of which one has no image."""
    training = CASES["no_images"](backbones)
    expected = run_alone(training, ADAMW, 3, tmp_path / "alone")
    actual = run_together(2, training, ENGINES["fsdp2"], ADAMW, 3, tmp_path / "together")
    assert_equal(actual, expected, steps=3)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(alone, tmp_path, engine, case):
    training, expected = alone(case)
    assert_equal(run_together(2, training, ENGINES[engine], ADAMW, STEPS, tmp_path), expected)


#: Cases on other numbers of processes, and with other settings of the engines.
OTHER_ENGINES = {
    "one process, ddp": ("no_images", 1, ParallelConfig("ddp")),
    "one process, fsdp2": ("no_images", 1, ParallelConfig("fsdp2")),
    "one process, hsdp": ("no_images", 1, ParallelConfig("hsdp", shard_size=1)),
    "four processes, ddp": ("no_images", 4, ParallelConfig("ddp")),
    "four processes, fsdp2": ("no_images", 4, ParallelConfig("fsdp2")),
    "two copies of two shards": ("no_images", 4, ParallelConfig("hsdp", shard_size=2)),
    "one copy of two shards": ("no_images", 2, ParallelConfig("hsdp", shard_size=2)),
    "uneven shards": ("odd_vocabulary", 4, ParallelConfig("fsdp2")),
    "uneven trained shards": ("trained_backbones", 4, ParallelConfig("fsdp2")),
    "layers stay gathered": ("checkpointing", 2, ParallelConfig("fsdp2", reshard_after_forward=False)),
    "sharded encoder": ("no_images", 2, ParallelConfig("fsdp2", shard_vision_model=True)),
    "scattered after each batch": ("no_images", 2, ParallelConfig("fsdp2", scatter_every_batch=True)),
    "scattered in two copies": ("no_images", 2, ParallelConfig("hsdp", shard_size=1, scatter_every_batch=True)),
}


@pytest.mark.full
@pytest.mark.parametrize("engine", OTHER_ENGINES)
def test_other_numbers_and_settings_train_as_one(alone, tmp_path, engine):
    case, size, parallel = OTHER_ENGINES[engine]
    training, expected = alone(case)
    assert_equal(run_together(size, training, parallel, ADAMW, STEPS, tmp_path), expected)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_weights_of_other_optimizers_are_equal(alone, tmp_path, engine, optimizer):
    training, expected = alone("untied", optimizer)
    config, _ = OPTIMIZERS_AND_ERRORS[optimizer]
    assert_equal(run_together(2, training, ENGINES[engine], config, STEPS, tmp_path), expected, optimizer)


@pytest.mark.full
def test_in_bf16_shards_are_as_exact_as_one_process(backbones, tmp_path):
    """DDP computes the same products. Shards round weights where autocast does, and some results where it does not."""
    training = in_bf16(backbones)
    exact_training = replace(training, model=in_float64(deepcopy(training.model)), config={})
    exact = run_alone(exact_training, ADAMW, STEPS, tmp_path / "exact")
    expected = run_alone(training, ADAMW, STEPS, tmp_path / "alone")
    replicated, sharded = (
        run_together(2, training, ENGINES[engine], ADAMW, STEPS, tmp_path / engine) for engine in ("ddp", "fsdp2")
    )
    assert max(errors(replicated, expected).values()) <= 1e-5
    error = error_of_whole(expected.gradients, exact.gradients)
    error_of_shards = error_of_whole(sharded.gradients, exact.gradients)
    print({"one process": error, "shards": error_of_shards})
    assert 1e-3 < error < 0.05
    assert error_of_shards < 1.5 * error
    # A number of bf16 is rounded by at most 2^-9 of it.
    assert error_of_numbers(sharded.losses, expected.losses) < 2**-9
