"""Plots of scores and losses: values at their places, and series with their names."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flamingo.report.curves import few_shot_figure, headline_metrics, metric_name
from flamingo.report.style import BLUE, GREEN, GREY, OCHRE, PURPLE, VERMILION
from flamingo.results import read_scores
from tests.helpers.differences import difference
from tests.report import fake


@pytest.fixture
def read(tmp_path):
    def read(*rows):
        (tmp_path / "scores.json").write_text(json.dumps(rows))
        return read_scores(tmp_path / "scores.json")

    return read


def lines(ax, color):
    """Points of the series of a colour, without leaders of labels."""
    return [
        line.get_xydata()
        for line in ax.lines
        if to_hex(line.get_color()) == color and line.get_marker() not in ("None", "", None)
    ]


def texts(ax):
    return {text.get_text() for text in ax.texts}


def test_the_curve_is_the_seed_mean_of_greedy_scores(read):
    scores = read(
        fake.score(shots=0, demonstrations=None, value=0.1, ci95=(0.0, 0.2)),
        fake.score(shots=16, value=0.7, ci95=(0.6, 0.8)),
        fake.score(shots=4, seed=0, value=0.3, ci95=(0.2, 0.4)),
        fake.score(shots=4, seed=1, value=0.5, ci95=(0.4, 0.7)),
        fake.score(shots=4, decoding="beam3", value=0.9),
    )
    (ax,) = few_shot_figure(scores).axes
    (curve,) = lines(ax, BLUE)
    np.testing.assert_allclose(curve, [[0, 0.1], [1, 0.4], [2, 0.7]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "4", "16"]
    band = next(c for c in ax.collections if "FillBetween" in type(c).__name__ or "Poly" in type(c).__name__)
    ends = {tuple(point) for point in band.get_paths()[0].vertices.round(6)}
    assert {(0, 0), (0, 0.2), (1, 0.3), (1, 0.55), (2, 0.6), (2, 0.8)} <= ends
    assert texts(ax) == {"few-shot", "exact match"}
    assert 0.8 < ax.get_ylim()[1] < 1


def test_text_only_and_controls_are_their_own_series(read):
    scores = read(
        fake.score(shots=0, demonstrations=None, value=0.1),
        fake.score(shots=0, demonstrations="text_only", value=0.2),
        fake.score(shots=4, value=0.5),
        fake.score(shots=4, control="blind", value=0.05),
        fake.score(shots=4, control="shuffled_images", value=0.15),
        fake.score(shots=0, demonstrations=None, control="blind", value=0.03),
    )
    (ax,) = few_shot_figure(scores).axes
    point, curve = sorted(lines(ax, BLUE), key=len)
    np.testing.assert_allclose(point, [[0, 0.2]])
    np.testing.assert_allclose(curve, [[0, 0.1], [1, 0.5]])
    (blind,) = lines(ax, GREY)
    np.testing.assert_allclose(blind[:, 1], [0.03, 0.05])
    np.testing.assert_allclose(blind[:, 0], [0, 1], atol=0.1)  # next to each other
    assert {"few-shot", "text only", "blind", "shuffled images"} <= texts(ax)


def test_each_similarity_of_rices_is_its_own_series(read):
    names = ["rices", "rices_question", "rices_caption", "rices_sum"]
    rows = [fake.score(shots=4, demonstrations=name, value=0.1 + number / 10) for number, name in enumerate(names)]
    (ax,) = few_shot_figure(read(*rows, fake.score(demonstrations="rices_sum", control="blind", value=0.7))).axes
    colors = {to_hex(line.get_color()) for line in ax.lines if line.get_marker() != "None"}
    assert colors == {GREEN, PURPLE, OCHRE, VERMILION, GREY}
    assert len(lines(ax, GREY)) == 1  # as the control of random demonstrations
    assert {"RICES", "RICES by question", "RICES by sum", "blind, RICES by sum"} <= texts(ax)


def test_a_slope_is_a_thin_line_and_a_text_below(read):
    """The least-squares line of (0, 0.2), (1, 0.3), (2, 0.7) over log2(shots): 0.4 + 0.25 (d - 1)."""
    rows = [fake.score(shots=k, value=value) for k, value in ((1, 0.2), (2, 0.3), (4, 0.7))]
    scores = read(fake.score(shots=0, demonstrations=None, value=0.1), *rows, fake.score(metric="CIDEr"))
    setting = scores[3].setting
    slope = difference(
        kind="slope", setting=setting, metric="exact_match", shots=(1, 2, 4), value=0.25, bca=(0.2, 0.31)
    )
    others = [replace(slope, metric="BLEU-4"), replace(slope, kind="icl_efficiency")]
    others += [replace(slope, setting=replace(setting, **change)) for change in ({"decoding": "beam3"}, {"task": "t"})]
    ax, cider = few_shot_figure(scores, [slope, *others]).axes
    [fit] = [line.get_xydata() for line in ax.lines if line.get_linewidth() == 1.0]
    np.testing.assert_allclose(fit, [[1, 0.15], [2, 0.4], [3, 0.65]])
    assert texts(ax) - {"few-shot", "exact match"} == {"few-shot: +0.250 per doubling (0.200 to 0.310)"}
    assert texts(cider) == {"few-shot", "CIDEr"}


def test_a_slope_of_other_shots_than_the_curve_is_not_drawn(read):
    slope = difference(kind="slope", setting=read(fake.score())[0].setting, metric="exact_match", shots=(2, 4))
    [ax] = few_shot_figure(read(fake.score()), [slope]).axes
    assert texts(ax) == {"few-shot", "exact match"}


def test_a_panel_for_each_task_and_headline_metric(read):
    rows = [fake.score(metric=metric) for metric in ("BLEU-4", "CIDEr", "exact_match", "exact_match_order_std")]
    rows += [fake.score(task="other", metric="own_metric", decoding="beam3")]
    figure = few_shot_figure(read(*rows))
    panels = [(ax.get_title("left").strip(), texts(ax) - {"few-shot"}) for ax in figure.axes]
    assert panels == [
        ("synthetic_captions", {"exact match"}),
        ("synthetic_captions", {"CIDEr"}),
        ("other", {"own metric, beam3"}),
    ]


def test_an_interval_that_was_not_estimated_is_not_drawn(read):
    (ax,) = few_shot_figure(read(fake.score(value=0.5, ci95=None))).axes
    segments = np.concatenate([c.get_segments() for c in ax.collections if hasattr(c, "get_segments")])
    np.testing.assert_allclose(segments[0, :, 1], [0.5, 0.5])


def test_scores_of_zero_have_an_axis(read):
    (ax,) = few_shot_figure(read(fake.score(value=0.0, ci95=(0.0, 0.0)))).axes
    assert ax.get_ylim() == (0, 1)


def test_names(read):
    assert headline_metrics(read(fake.score(metric="BLEU-4"), fake.score(metric="BLEU-1")), "synthetic_captions") == [
        "BLEU-4"
    ]
    assert metric_name("exact_match_order_std") == "exact match, std over orders"


# ------------------------------------------------------------------------------ training


def drawn(ax):
    """Lines over steps, by colour; without leaders, which end outside the axes."""
    return [line.get_xydata() for line in ax.lines if line.get_transform() == ax.transData]
