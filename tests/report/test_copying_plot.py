"""The plot of copying: rates at their distances, and the lines that belong to a setting."""

import numpy as np
from matplotlib.colors import to_hex

from flamingo.report.copying_plot import copying_figure
from flamingo.report.style import BLUE, GREY, OCHRE
from tests.helpers.measures import measure


def points(ax, color):
    """The points of the line of a colour."""
    [line] = [line for line in ax.lines if to_hex(line.get_color()) == color and line.get_marker() in "oXP"]
    return line.get_xydata()


def texts(ax):
    return {text.get_text() for text in ax.texts}


def test_rates_stand_at_their_distances_as_means_of_seeds():
    measures = [
        measure(distance=1, value=0.2, ci95=(0.1, 0.5), seed=0),
        measure(distance=1, value=0.4, ci95=(0.3, 0.6), seed=1),
        measure(distance=2, value=0.05, ci95=(0.0, 0.1)),
        measure(distance=1, name="reference_rate", value=0.3),
        measure(distance=1, control="blind", value=0.1),
        measure(distance=1, control="blind", name="reference_rate", value=0.9, ci95=(0.8, 1.0)),
        measure(distance=1, control="shuffled_images", value=0.9, ci95=(0.8, 1.0)),
        measure(name="gated_norm", distance=1, value=5.0),
    ]
    [ax] = copying_figure(measures).axes
    np.testing.assert_allclose(points(ax, BLUE), [[1, 0.3], [2, 0.05]])
    assert points(ax, GREY)[:, 1].tolist() == [0.1] and points(ax, OCHRE)[:, 1].tolist() == [0.3]
    intervals = {tuple(path.vertices[:, 1].round(6)) for lines in ax.collections for path in lines.get_paths()}
    assert (0.2, 0.55) in intervals
    assert texts(ax) == {"copy rate", "copy rate, blind", "reference rate", "equal words, 4 shots"}
    assert 0.55 < ax.get_ylim()[1] < 0.6


def test_each_task_and_selection_has_a_row_of_its_most_shots():
    measures = [
        measure(value=0.5),
        measure(shots=8, value=0.0, ci95=(0.0, 0.0)),
        measure(shots=8, part="ROUGE-L", value=0.02, ci95=(0.0, 0.05)),
        measure(shots=8, demonstrations="rices"),
        measure("other"),
    ]
    first, near, second, empty, third, _ = copying_figure(measures).axes
    assert [texts(ax) - {"copy rate"} for ax in (first, near, second, third)] == [
        {"equal words, 8 shots"},
        {"ROUGE-L of at least 0.9, 8 shots"},
        {"equal words, 8 shots, RICES"},
        {"equal words, 4 shots"},
    ]
    assert near.get_ylim() == first.get_ylim() == (0, 0.1) and not empty.axison
    assert [ax.get_title(loc="left").strip() for ax in (first, second, third)] == ["t", "t", "other"]


def test_without_shots_there_is_no_plot():
    assert copying_figure([]) is None
    assert copying_figure([measure(shots=0), measure(control="blind"), measure(name="gated_norm")]) is None
