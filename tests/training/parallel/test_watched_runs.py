"""A training in shards besides its steps: held-out losses, gates, samples, and no step after an infinite loss."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from flamingo.training import ParallelConfig, TrainingConfig
from flamingo.training.callbacks import Callbacks, fusion_measures
from flamingo.training.loop import train
from flamingo.training.losses.next_token import next_token
from flamingo.training.monitoring import Monitoring
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.validation import HeldOut
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.forked import values_of_processes
from tests.training.parallel.cases import CASES, documents
from tests.training.parallel.comparison import error_of_numbers, error_of_weights
from tests.training.parallel.recorded_run import run_alone, weights_of
from tests.training.runs import history

pytestmark = pytest.mark.full

ENGINES = {"ddp": ParallelConfig("ddp"), "fsdp2": ParallelConfig("fsdp2"), "hsdp": ParallelConfig("hsdp", shard_size=1)}


def watched_run(training, parallel, output):
    """Returns the samples of this process. There is one batch of held-out documents more than all can share."""
    model, samples = deepcopy(training.model), []

    def sample(step):
        prompt = tiny.inputs(1)
        samples.append(model.generate(**prompt, max_new_tokens=3 + step, eos_token_id=None, pad_token_id=0))

    config = TrainingConfig(2, training.accumulate(), log_every=1, sample_every=1, validate_every=1)
    held_out = [HeldOut("pairs", documents(lambda number: 1 - number % 2)[:3])]
    callbacks = Callbacks([fusion_measures], on_sample=sample)
    train(model, training.data_sets(), AdamWConfig(), config, output, callbacks, parallel, Monitoring(held_out))
    return samples


@pytest.mark.parametrize("engine", ENGINES)
def test_held_out_losses_gates_and_samples_are_equal(backbones, tmp_path, engine):
    training = CASES["no_images"](backbones)
    (expected,) = values_of_processes(1, watched_run, training, ParallelConfig(), tmp_path / "alone")
    actual, _ = values_of_processes(2, watched_run, training, ENGINES[engine], tmp_path / "together")
    assert len(actual) == 2
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(actual, expected, strict=True))
    for mine, theirs in zip(history(tmp_path / "together"), history(tmp_path / "alone"), strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["gates"] == pytest.approx(theirs["gates"], rel=1e-6)
        for key in ("held_out_loss/pairs", "blind_held_out_loss/pairs"):
            assert error_of_numbers([mine[key]], [theirs[key]]) <= 1e-6


def spoiled_run(training, parallel, optimizer, output):
    """Returns the error of this process and its weights. Rank 1 has an infinite loss in step 3, of finite gradient."""
    model, steps = deepcopy(training.model), []

    def spoiled(model, batch, count):
        steps.append(len(steps) + 1)
        loss = next_token(model, batch, count)
        return loss + float("inf") if processes().process_index == 1 and len(steps) == 5 else loss

    (data_set,) = training.data_sets()
    config = TrainingConfig(8, training.accumulate(), log_every=5, save_every=2)
    with pytest.raises(UserError) as error:
        train(model, [replace(data_set, loss=spoiled)], optimizer, config, output, parallel=parallel)
    return str(error.value), len(steps), weights_of(model)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-3), MuonConfig(lr=1e-3)], ids=lambda config: config.kind)
def test_an_infinite_loss_in_one_process_holds_all_shards(backbones, tmp_path, optimizer, engine):
    """It is found before the state of step 4, and no weight has changed since step 2."""
    training = CASES["untied"](backbones)
    expected = run_alone(training, optimizer, 2, tmp_path / "alone")
    spoiled = values_of_processes(2, spoiled_run, training, ENGINES[engine], optimizer, tmp_path / "spoiled")
    for message, batches, weights in spoiled:
        assert "step 3" in message and batches == 4 * 2
        assert error_of_weights(weights, expected.weights) <= 1e-6
    states = [marker.parent.name for marker in (tmp_path / "spoiled").glob("state/*/complete.json")]
    assert states == ["step-00000002"]
