"""After a loss or a gradient that is not finite nothing changes, and the run stops before it writes."""

import os
import signal
import statistics

import pytest
import torch
from torch import nn

from flamingo.data.collate import Batch
from flamingo.training import TrainingConfig, loop
from flamingo.training.callbacks import Callbacks
from flamingo.training.guard import Guard
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.parallel import Parallel
from flamingo.training.state_tensors import optimizer_tensors
from flamingo.training.step import DataSet
from flamingo.utils.errors import UserError
from tests.helpers.states import read_state
from tests.training.runs import Listed, history

OPTIMIZERS = [
    AdamWConfig(lr=1e-2, weight_decay=0.5, warmup_steps=2, schedule="cosine"),
    MuonConfig(lr=1e-2, weight_decay=0.5, warmup_steps=2, schedule="cosine"),
]
BAD_STEP = 3


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def numbered(number):
    tensors = {"x": torch.randn(5, 4, generator=torch.Generator().manual_seed(number))}
    return Batch(tensors, [f"document {number}"], label_tokens=5)


class Spoiled:
    """A loss that at step 3, and in no later one, is not finite itself, or has a gradient that is not."""

    def __init__(self, quantity=None, accumulate=2):
        self.quantity, self.accumulate = quantity, accumulate
        self.calls = 0

    def __call__(self, model, batch, count):
        self.calls += 1
        loss = model(batch.tensors["x"]).square().sum() / count
        # The second of the two batches of the step.
        if self.calls != BAD_STEP * self.accumulate:
            return loss
        if self.quantity == "loss":
            return loss + float("inf")  # its gradient is finite
        if self.quantity == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss


def run(model, output, optimizer, loss, callbacks=None, batches=None, **config):
    batches = batches or Listed(*(numbered(number) for number in range(1, 7)))
    values = {"steps": 8, "accumulate": 2, "log_every": 8, "save_every": 8, **config}
    sets = [DataSet("numbers", batches, loss=loss)]
    train(model, sets, optimizer, TrainingConfig(**values), output, callbacks or Callbacks())


def state_of(output, step):
    return read_state(output, step)


class StopError(Exception):
    pass


@pytest.fixture(params=OPTIMIZERS, ids=lambda optimizer: optimizer.kind)
def optimizer(request):
    return request.param


@pytest.fixture
def after_two_steps(optimizer, tmp_path):
    """The state of a run that saves after two steps."""

    def stop():
        raise StopError

    with pytest.raises(StopError):
        run(make_model(), tmp_path / "two", optimizer, Spoiled(), Callbacks(on_save=stop), save_every=2)
    return state_of(tmp_path / "two", 2)


def assert_equal(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(actual[key], value)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    else:
        assert actual == expected


@pytest.mark.parametrize("quantity", ["loss", "gradient"])
def test_neither_the_bad_step_nor_a_later_one_changes_anything(
    optimizer, after_two_steps, tmp_path, monkeypatch, quantity
):
    """Steps 4 to 8 are finite again. With decay, momenta, the steps of AdamW and running statistics."""
    optimizers = []
    make_optimizer = loop.make_optimizer

    def kept(*args):
        optimizers.append(make_optimizer(*args))
        return optimizers[0]

    monkeypatch.setattr(loop, "make_optimizer", kept)
    model = make_model()
    loss = Spoiled(quantity)
    with pytest.raises(UserError) as error:
        run(model, tmp_path / "bad", optimizer, loss)
    assert loss.calls == 16
    assert f"the {quantity} of step 3 is not finite" in str(error.value)
    named = "numbers: document 6" if quantity == "loss" else "numbers: document 5; numbers: document 6"
    assert str(error.value).endswith(f"documents of {named}")
    state = model.state_dict()
    assert_equal({name: state[name] for name in after_two_steps["parameters"]}, after_two_steps["parameters"])
    assert_equal({name: state[name] for name in after_two_steps["buffers"]}, after_two_steps["buffers"])
    assert len(after_two_steps["buffers"]) == 3
    moments = optimizer_tensors(model, optimizers[0])
    assert_equal(
        {name.removeprefix("optimizer."): moment for name, moment in moments.items()}, after_two_steps["optimizer"]
    )
    assert not (tmp_path / "bad" / "history.jsonl").exists()
    assert not (tmp_path / "bad" / "state").exists()


@pytest.mark.parametrize("quantity", ["loss", "gradient"])
@pytest.mark.parametrize("ends", ["log", "sample", "save", "signal"])
def test_the_run_stops_before_the_next_record_sample_or_state(optimizer, tmp_path, quantity, ends):
    """All of them are due at step 4, or a signal arrives there; after it the run continues from the state of step 2."""
    config = {"save_every": 2, "log_every": 8, "sample_every": 0}
    if ends == "log":
        config["log_every"] = 4
    if ends == "sample":
        config["sample_every"] = 4
    samples = []
    made = [numbered(number) for number in range(1, 7)]

    class Interrupted(Listed):
        def __iter__(self):
            for batch in super().__iter__():
                if ends == "signal" and self.position == 7:  # the first batch of step 4
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    callbacks = Callbacks(on_sample=samples.append)
    loss = Spoiled(quantity)
    with pytest.raises(UserError, match=f"the {quantity} of step 3 is not finite"):
        run(make_model(), tmp_path, optimizer, loss, callbacks, Interrupted(*made), **config)
    assert loss.calls == 2 * 4
    assert samples == []
    assert not (tmp_path / "history.jsonl").exists()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000002"]
    again, whole = make_model(), make_model()
    run(again, tmp_path, optimizer, Spoiled(), Callbacks(on_sample=lambda step: None), Listed(*made), **config)
    run(whole, tmp_path / "whole", optimizer, Spoiled(), Callbacks(on_sample=lambda step: None), **config)
    assert_equal(dict(again.state_dict()), dict(whole.state_dict()))
    assert history(tmp_path) == history(tmp_path / "whole")


def test_a_record_has_the_values_of_its_own_step(tmp_path):
    """Whether the steps before it are read one by one or together."""
    each, last = make_model(), make_model()
    run(each, tmp_path / "each", OPTIMIZERS[0], Spoiled(), log_every=1)
    run(last, tmp_path / "last", OPTIMIZERS[0], Spoiled(), log_every=5)
    records = {record["step"]: record for record in history(tmp_path / "each")}
    assert [record["step"] for record in history(tmp_path / "last")] == [5, 8]
    for record in history(tmp_path / "last"):
        assert record == records[record["step"]]
    assert statistics.stdev(record["gradient_norm"] for record in records.values()) > 0


def test_the_guard_copies_only_saved_buffers_of_training_modules():
    model = make_model()
    model.append(nn.BatchNorm1d(3).eval())
    model.register_buffer("table", torch.zeros(9), persistent=False)
    guard = Guard(Parallel(model))
    guard.begin()
    assert len(guard._before) == 3
