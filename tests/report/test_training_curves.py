import numpy as np
import pytest

from flamingo.report.training_curves import training_figure
from flamingo.utils.errors import UserError
from tests.report.test_curves import drawn, texts


def record(step, gates, **losses):
    return {"step": step, "loss": sum(losses.values()), "gates": gates} | {f"loss/{k}": v for k, v in losses.items()}


def test_a_history_without_gates_has_the_loss_alone():
    [loss] = training_figure([record(10, {}, captions=3.0), record(20, {}, captions=1.0)]).axes
    assert [line.tolist() for line in drawn(loss)] == [[[10, 3], [20, 1]]]


def test_losses_and_gates_over_steps():
    history = [
        record(10, {"0.attention": 0.0, "2.attention": 0.1, "0.feedforward": 0.2}, captions=3.0, pages=4.0),
        record(20, {"0.attention": 0.3, "2.attention": 0.5, "0.feedforward": -0.2}, captions=1.0),
        record(30, {"0.attention": 0.4, "2.attention": 0.6, "0.feedforward": -0.3}, captions=1.0, pages=2.0),
    ]
    loss, attention, feedforward = training_figure(history).axes
    assert [line.tolist() for line in drawn(loss)] == [
        [[10, 3], [20, 1], [30, 1]],
        [[10, 4], [30, 2]],  # where it was trained on
        [[10, 7], [20, 1], [30, 3]],
    ]
    assert texts(loss) == {"captions", "pages", "total"}
    assert [[10, 0.1], [20, 0.5], [30, 0.6]] in [line.tolist() for line in drawn(attention)]
    assert texts(attention) == {"layer 0", "layer 2"}
    assert [[10, 0.2], [20, -0.2], [30, -0.3]] in [line.tolist() for line in drawn(feedforward)]
    assert attention.get_ylim() == feedforward.get_ylim()
    assert loss.get_xlim() == (0, 30)


def test_the_total_of_one_data_set_is_not_drawn_twice():
    loss = training_figure([record(1, {}, captions=3.0), record(2, {}, captions=2.0)]).axes[0]
    assert (len(drawn(loss)), texts(loss)) == (1, {"captions"})


def test_long_histories_are_running_means_before_the_records():
    history = [record(i, {}, captions=float(i % 2)) for i in range(100)]
    raw, mean = drawn(training_figure(history).axes[0])
    np.testing.assert_allclose(raw[:, 1], np.arange(100) % 2)
    np.testing.assert_allclose(mean[:, 1], [0] + [0.5] * 99)
    assert len(drawn(training_figure(history[:99]).axes[0])) == 1


def test_of_many_layers_some_are_named_and_all_are_drawn():
    gates = {f"{layer}.attention": layer / 32 for layer in range(32)}
    attention = training_figure([record(1, gates), record(2, gates)]).axes[1]
    assert texts(attention) == {f"layer {layer}" for layer in range(3, 32, 4)}
    assert len(drawn(attention)) >= 32


def test_an_empty_history_is_refused():
    with pytest.raises(UserError, match="history"):
        training_figure([])


def test_held_out_losses_have_a_panel_with_the_blind_ones_dashed():
    gates = {"0.attention": 0.1, "0.feedforward": 0.2}
    plain = record(10, gates, captions=3.0)
    measured = record(20, gates, captions=1.0) | {"held_out_loss/captions": 2.0, "blind_held_out_loss/captions": 2.5}
    later = record(30, gates, captions=1.0) | {"held_out_loss/captions": 1.5, "blind_held_out_loss/captions": 2.4}
    _, held_out, attention, feedforward = training_figure([plain, measured, later]).axes
    assert [line.tolist() for line in drawn(held_out)] == [[[20, 2], [30, 1.5]], [[20, 2.5], [30, 2.4]]]
    assert [line.get_linestyle() for line in held_out.lines[:2]] == ["-", "--"]
    assert texts(held_out) == {"captions", "captions, blind"}
    assert attention.get_ylim() == feedforward.get_ylim()
    loss, held_out = training_figure([record | {"gates": {}} for record in (plain, measured, later)]).axes
    assert held_out.get_xlim() == loss.get_xlim() == (0, 30)
