"""The files and callbacks of a run, when it stops, and what it does not change."""

import json
import math
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks, fusion_measures
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig
from flamingo.training.step import DataSet
from flamingo.utils.errors import Stopped, UserError
from tests import tiny
from tests.helpers import devices
from tests.helpers.devices import moved
from tests.helpers.states import read_state
from tests.training.runs import Listed, batch, history, make_model, trained

OPTIMIZER = AdamWConfig(lr=1e-3)


def pairs(*numbers, name="pairs", images=1, weight=1.0):
    return DataSet(name, Listed(*(batch([number], images) for number in numbers or (3,))), weight)


def run(model, output, data_sets=None, optimizer=OPTIMIZER, on_log=None, on_sample=None, **config):
    config = TrainingConfig(**{"steps": 4, "log_every": 1, **config})
    train(model, data_sets or [pairs()], optimizer, config, output, Callbacks([fusion_measures], on_log, on_sample))


def test_the_steps_are_those_of_adamw_written_out(backbones, tmp_path):
    """Clipped, warmed up, gates with their own rate; and the frozen parts stay."""
    model, plain = make_model(backbones), make_model(backbones)
    config = AdamWConfig(lr=1e-2, gate_lr=5e-2, weight_decay=0.2, betas=(0.8, 0.9), warmup_steps=2, max_grad_norm=0.05)
    run(model, tmp_path, [pairs(3, 4, weight=0.7)], config, steps=3)
    plain.train()
    moments = dict.fromkeys(plain.trainable_parameter_names(), (0.0, 0.0))
    norms = []
    for t in (1, 2, 3):
        (0.7 * plain(**moved(batch([[3, 4, 3][t - 1]]).tensors)).loss).backward()
        parameters = {name: p for name, p in plain.named_parameters() if p.requires_grad}
        norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in parameters.values())))
        for name, p in parameters.items():
            gradient = p.grad * min(1.0, 0.05 / norms[-1])
            m, v = moments[name]
            m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
            moments[name] = m, v
            rate = (5e-2 if name.endswith("_gate") else 1e-2) * min(1.0, t / 2)
            decays = p.ndim == 2 and name.endswith(".weight")
            step = (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
            p.data = p.data * (1 - rate * 0.2 * decays) - rate * step
            p.grad = None
    assert min(norms) > 0.05
    assert [record["gradient_norm"] for record in history(tmp_path)] == pytest.approx(norms, rel=1e-3)
    assert [record["lr"] for record in history(tmp_path)] == pytest.approx([5e-3, 1e-2, 1e-2])
    for (name, actual), expected in zip(model.named_parameters(), plain.parameters()):
        if actual.requires_grad:
            torch.testing.assert_close(actual, expected, rtol=0, atol=3e-4, msg=name)
        else:
            assert torch.equal(actual, expected)


def test_records_have_losses_gates_and_tokens_so_far(backbones, tmp_path):
    model, seen = make_model(backbones), []
    expected = {n: make_model(backbones)(**moved(batch([3], n).tensors)).loss.item() for n in (1, 0)}
    sets = [pairs(weight=0.5), pairs(name="texts", images=0, weight=0.2)]
    run(model, tmp_path, sets, on_log=seen.append, steps=5, log_every=3)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert records == seen
    assert [record["step"] for record in records] == [3, 5]
    assert [record["tokens"] for record in records] == [3 * 12, 5 * 12]  # 2 documents of 8 tokens, 6 trained on
    assert list(records[0]) == [
        *("step", "loss", "loss/pairs", "loss/texts", "lr", "gradient_norm", "tokens_per_second", "images_per_second"),
        *("time/data", "time/forward", "time/backward", "time/optimizer", "time/logging", "peak_memory"),
        *("gates", "tokens", "seconds"),
    ]
    assert records[-1]["gates"] == fusion_measures(model)["gates"]
    assert 0 < records[0]["seconds"] < records[1]["seconds"]
    (first,) = (run(make_model(backbones), tmp_path / "first", sets, steps=1), history(tmp_path / "first"))[1]
    assert first["loss/pairs"] == pytest.approx(expected[1])
    assert first["loss/texts"] == pytest.approx(expected[0])
    assert first["loss"] == pytest.approx(0.5 * expected[1] + 0.2 * expected[0])


def test_a_record_counts_what_streamed_samples_lost_so_far(backbones, tmp_path, caplog):
    lost = replace(batch([3]), drops=Counter({"broken sample": 2}))
    lost.tensors["labels"] = torch.full_like(lost.tensors["labels"], -100)
    lost.label_tokens = 0
    whole = replace(batch([4]), drops=Counter({"broken sample": 1, "no room": 3}))
    model = make_model(backbones)
    caplog.set_level("INFO")
    run(model, tmp_path, [DataSet("pairs", Listed(lost, whole))], steps=4, save_every=3)
    records = history(tmp_path)
    counts = [{key: value for key, value in record.items() if key.startswith("dropped/")} for record in records]
    assert counts[0] == {"dropped/broken sample": 2}
    assert counts[1] == counts[2] | {"dropped/broken sample": 3} == {"dropped/broken sample": 3, "dropped/no room": 3}
    assert counts[3] == {"dropped/broken sample": 6, "dropped/no room": 6}
    # The log has the counts at the end, and a warning while there was no token to train on.
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "step 1" in warning and "broken sample (2)" in warning
    assert caplog.messages[-1].endswith(": broken sample (6), no room (6)")
    # A step without any label token has no gradient, and the training goes on.
    assert records[0]["loss"] == records[0]["gradient_norm"] == 0 and records[1]["gradient_norm"] > 0


def test_the_time_of_the_log_is_recorded_apart_from_steps(backbones, tmp_path, monkeypatch):
    """By a clock that a step moves by 1 s, a measure of the model by 2 s, the tracker by 6 s and a sample by 50 s."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    def take(seconds):
        clock.now += seconds
        return {}

    callbacks = Callbacks([lambda _: take(2)], lambda _: take(6), lambda _: take(50))
    model = make_model(backbones)
    model.register_forward_hook(lambda *_: take(1) or None)
    config = TrainingConfig(steps=4, log_every=2, sample_every=1)
    train(model, [pairs()], OPTIMIZER, config, tmp_path, callbacks)
    first, second = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (first["time/logging"], second["time/logging"]) == (0, (2 + 6) / 2)
    assert second["tokens_per_second"] == first["tokens_per_second"] == 8


def test_gates_are_read_through_their_tanh(backbones):
    model = make_model(backbones)
    model.fusion.blocks["3"].attention_gate.data.fill_(-1.0)
    low, high = math.tanh(0.3), math.tanh(-1.0)
    assert fusion_measures(model)["gates"] == pytest.approx(
        {"1.attention": low, "1.feedforward": low, "3.attention": high, "3.feedforward": low}
    )
    vectors = tiny.flamingo(backbones, fusion={"gate": "vector"})
    vectors.fusion.blocks["1"].attention_gate.data[::2] = -0.7
    assert fusion_measures(vectors)["gates"]["1.attention"] == pytest.approx(math.tanh(0.7))


def test_round_robin_records_have_the_last_loss_of_each_set(backbones, tmp_path):
    sets = [pairs(weight=0.5), pairs(name="texts", images=0)]
    run(make_model(backbones), tmp_path, sets, mixing="round_robin")
    a, b, c, _ = history(tmp_path)
    assert a["loss"] == 0.5 * a["loss/pairs"]
    assert "loss/texts" not in a
    assert b["loss/pairs"] == a["loss/pairs"]
    assert b["loss"] == b["loss/texts"] == c["loss/texts"]
    assert [record["tokens"] for record in history(tmp_path)] == [6, 12, 18, 24]


def test_samples_are_taken_in_evaluation_mode_and_change_nothing(backbones, tmp_path):
    model, steps = make_model(backbones), []

    def sample(step):
        steps.append(step)
        assert not model.training
        torch.rand(3)
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=True, eos_token_id=None, pad_token_id=0)

    modes = []
    run(model, tmp_path, on_sample=sample, on_log=lambda _: modes.append(model.training), steps=5, sample_every=2)
    assert steps == [2, 4, 5]
    assert modes == [True] * 5
    assert not model.training
    quiet = make_model(backbones)
    run(quiet, tmp_path / "quiet", on_sample=lambda _: pytest.fail("0 is never"), steps=5)
    for name, weight in trained(quiet).items():
        assert torch.equal(weight, trained(model)[name])


def test_frozen_parts_are_in_the_mode_that_the_model_sets(backbones, tmp_path):
    model, modes = make_model(backbones), []
    run(model, tmp_path, on_log=lambda _: modes.append((model.connector.training, model.vision_model.training)))
    assert modes == [(True, False)] * 4


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_before_weights_change(backbones, tmp_path, what):
    """At the second batch of step 2; the gradient alone by a hook, with a loss that is finite."""
    model, before = make_model(backbones), []
    bad = batch([7, 8])
    if what == "loss":
        bad.tensors["pixel_values"][1] = float("nan")
    sets = [
        pairs(1, 2, 5, 9, name="good"),
        DataSet("bad", Listed(batch([1]), batch([2]), batch([4]), bad)),
    ]

    def second_step(record):
        before.append(trained(model))
        if what == "gradient":
            model.connector.latents.register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(UserError) as error:
        run(model, tmp_path, sets, on_log=second_step, accumulate=2)
    message = str(error.value)
    assert f"the {what} of step 2 is not finite" in message
    assert "bad: document 7, document 8" in message
    assert ("good: document 5" in message) == (what == "gradient")
    assert len(before) == 1
    assert all(torch.equal(weight, before[0][name]) for name, weight in trained(model).items())
    assert not (tmp_path / "state").exists()


@pytest.fixture
def _ctrl_c_is_heard():
    """Processes in the background of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves_a_state(backbones, tmp_path, number):
    class Interrupted(Listed):
        def __iter__(self):
            for i, made in enumerate(super().__iter__()):
                if i == 2:
                    os.kill(os.getpid(), number)
                yield made

    numbers, model = [batch([n]) for n in (3, 4, 5)], make_model(backbones)
    usual = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"step 3.*step-00000003") as stopped:
        run(model, tmp_path, [DataSet("pairs", Interrupted(*numbers))], steps=5)
    assert stopped.value.signal == number
    assert signal.getsignal(number) is usual
    resumed, whole = make_model(backbones), make_model(backbones)
    run(resumed, tmp_path, [DataSet("pairs", Listed(*numbers))], steps=5)
    run(whole, tmp_path / "whole", [DataSet("pairs", Listed(*numbers))], steps=5)
    assert history(tmp_path) == history(tmp_path / "whole")
    assert all(torch.equal(weight, trained(resumed)[name]) for name, weight in trained(whole).items())


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_a_second_ctrl_c_ends_at_once(backbones, tmp_path):
    def twice(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(make_model(backbones), tmp_path, on_log=twice)
    assert not (tmp_path / "state").exists()


def test_a_second_sigterm_ends_at_once_and_the_run_can_resume(backbones, tmp_path):
    """Handlers of C are as they were, so that it is the kernel that ends the process."""
    devices.skip_unless_forked_processes_compute()

    def twice(_):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    if (pid := os.fork()) == 0:
        try:
            run(make_model(backbones), tmp_path, on_log=twice)
        finally:
            os._exit(0)  # no exception may leave the copy of this process to run further tests
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    assert not (tmp_path / "state").exists()
    run(make_model(backbones), tmp_path)


def test_a_finished_run_is_restored_and_nothing_more(backbones, tmp_path):
    model = make_model(backbones)
    run(model, tmp_path, steps=2)
    written = (tmp_path / "history.jsonl").read_text()
    again = make_model(backbones)

    def never(_):
        pytest.fail("the run was over")

    run(again, tmp_path, on_log=never, on_sample=never, steps=2, sample_every=1)
    assert (tmp_path / "history.jsonl").read_text() == written
    assert all(torch.equal(weight, trained(again)[name]) for name, weight in trained(model).items())


def test_in_bf16_trained_parts_and_their_states_stay_float32(backbones, tmp_path):
    model, computed = make_model(backbones), []
    model.fusion.blocks["1"].feedforward.up.register_forward_hook(lambda *args: computed.append(args[-1].dtype))
    forward = model.forward
    run(model, tmp_path / "bf16", precision="bf16", steps=3)
    assert set(computed) == {torch.bfloat16}
    assert model.forward == forward
    assert {weight.dtype for weight in trained(model).values()} == {torch.float32}
    moments = read_state(tmp_path / "bf16", 3)["optimizer"]
    assert moments and {moment.dtype for moment in moments.values()} == {torch.float32}
    # Close to float32, and a process may have runs of both precisions.
    run(make_model(backbones), tmp_path / "fp32", steps=3)
    losses = {p: [record["loss"] for record in history(tmp_path / p)] for p in ("bf16", "fp32")}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_gradients_from_before_do_not_count(backbones, tmp_path):
    model, clean = make_model(backbones), make_model(backbones)
    model(**moved(batch([5]).tensors)).loss.backward()
    run(model, tmp_path / "model")
    run(clean, tmp_path / "clean")
    assert history(tmp_path / "model") == history(tmp_path / "clean")


def test_data_sets_need_names_of_their_own(backbones, tmp_path):
    with pytest.raises(ValueError, match=r"\['pairs', 'pairs'\]"):
        run(make_model(backbones), tmp_path, [pairs(), pairs()])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("accumulate", 0),
        ("log_every", 0),
        ("save_every", 0),
        ("keep_every", -1),
        ("keep_every", 750),
        ("sample_every", -1),
        ("mixing", "mixed"),
        ("precision", "fp16"),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(key, value):
    with pytest.raises(UserError, match=f"^{key} "):
        TrainingConfig(**{"steps": 3, key: value})
