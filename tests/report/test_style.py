"""Labels that do not overlap, settings that do not leak, and figures as files."""

import io

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from flamingo.report.style import BLUE, Label, label_ends, png, spread_labels, style, svg


def test_labels_that_are_apart_stay_where_they_are():
    assert spread_labels([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])


def test_crowded_labels_move_around_their_middle():
    assert spread_labels([0.4, 0.5, 0.5, 0.9], 0.1) == pytest.approx([0.4 - 1 / 30, 0.5 - 1 / 30, 0.6 - 1 / 30, 0.9])


def test_labels_stay_within_the_axes():
    assert spread_labels([0.0, 0.0, 0.0], 0.2) == pytest.approx([0.0, 0.2, 0.4])
    assert spread_labels([0.99, 1.0, 1.0], 0.2) == pytest.approx([0.6, 0.8, 1.0])


def test_a_push_is_handed_on():
    assert spread_labels([0.3, 0.45, 0.46], 0.2) == pytest.approx([0.2033333, 0.4033333, 0.6033333])


def test_no_labels():
    assert spread_labels([], 0.1) == []


def test_labels_are_written_beside_their_lines():
    figure = Figure()
    ax = figure.subplots()
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 4)
    label_ends(ax, [Label(10.0, 3.0, "high", BLUE), Label(10.0, 1.0, "low", BLUE, bold=True)])
    assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [("low", 0.25), ("high", 0.75)]
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 10), (0, 4))


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    with style():
        figure = Figure()
        assert matplotlib.rcParams["axes.spines.top"] is False
    png(figure)
    svg(figure)
    assert dict(matplotlib.rcParams) == before


def test_the_dark_picture_has_other_colours_and_the_same_lines():
    with style():
        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0], color=BLUE)
    light, dark = svg(figure)
    assert BLUE in light
    assert BLUE not in dark
    assert "#56b4e9" in dark
    assert dark.replace("#56b4e9", BLUE).count(BLUE) == light.count(BLUE)
    assert svg(figure) == (light, dark)


def test_the_picture_for_papers_is_white_behind():
    picture = Image.open(io.BytesIO(png(Figure(facecolor="none")))).convert("RGBA")
    assert picture.getcolors() == [(picture.width * picture.height, (255, 255, 255, 255))]
