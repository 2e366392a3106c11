"""The trial of a dry run: what each part of a training takes is measured apart."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from experiments.setup import trial_training
from experiments.setup.build import TrainingParts
from experiments.setup.trial_training import measured_trial
from tests.helpers.configs import composed
from tests.training.runs import Listed, batch


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        return self.seconds

    def pass_by(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(trial_training, "time", clock)
    return clock


@pytest.mark.parametrize("sample_every", [0, 500])
def test_each_part_of_a_trial_is_timed_apart(clock, monkeypatch, sample_every):
    """A clock that only the fake parts move; steps of 2 s, the first one of 10."""
    seen = []

    def train(model, data_sets, optimizer, training, folder, callbacks):
        clock.pass_by(0.25)  # the optimizer
        seconds = 8.0
        clock.pass_by(8.0)
        with (folder / "history.jsonl").open("w") as history:
            for step in range(1, training.steps + 1):
                clock.pass_by(2.0)
                seconds += 2.0
                record = {"step": step, "loss": 1.0, "seconds": seconds}
                history.write(json.dumps(record) + "\n")
                callbacks.on_log(record)
        if training.sample_every:
            assert training.sample_every == training.steps
            clock.pass_by(3.0)
            callbacks.on_sample(training.steps)
        clock.pass_by(4.0)
        (folder / "state").mkdir()
        (folder / "state" / "step").write_bytes(b"0" * 30)
        callbacks.on_save()
        seen.append((training, optimizer))

    def save(folder, **kwargs):
        clock.pass_by(2.5)
        folder.mkdir(exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}").write_bytes(b"0" * 5)

    monkeypatch.setattr(trial_training, "train", train)
    monkeypatch.setattr(trial_training, "prepared_masks", lambda *arguments: nullcontext())
    monkeypatch.setattr(trial_training, "Parallel", lambda model: model)
    held_out = SimpleNamespace(name="captions", batches=Listed(batch([1])), prepare=dict)
    monkeypatch.setattr(trial_training, "build_data_sets", lambda *arguments: [held_out])
    monkeypatch.setattr(trial_training, "held_out_losses", lambda *arguments: clock.pass_by(1.5))
    model = SimpleNamespace(new_tokens=SimpleNamespace(known_ids=None), save_pretrained=save)
    parts = TrainingParts(model, SimpleNamespace(save_pretrained=save), None, [])
    keys = ("tracker=none", "training.precision=bf16", f"training.sample_every={sample_every}")
    config = composed("train", *keys)
    measured = measured_trial(config, parts, {})
    assert (measured.step, measured.first_step, measured.state, measured.checkpoint) == (2.0, 8.0, 4.0, 5.0)
    assert measured.samples == (3.0 if sample_every else 0.0)
    assert measured.validation == 1.5 * 64 / config.data.documents["captions"].documents.batch_size
    assert measured.rest == 0.25
    assert (measured.feature_bytes, measured.state_bytes, measured.checkpoint_bytes) == (0, 30, 10)
    [(training, optimizer)] = seen
    assert (training.log_every, training.save_every, optimizer.warmup_steps) == (1, training.steps, 0)
    assert training.precision == "bf16"  # as the training that is estimated
