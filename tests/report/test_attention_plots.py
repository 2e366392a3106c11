"""Plots of attention: bright where it is, and points at their shares."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flamingo.report.attention_plots import attention_figure, share_figure
from flamingo.report.style import BLUE


def darkness(ax):
    return ax.images[1].get_array()[..., 3]


def test_a_map_lights_the_picture_where_attention_is():
    picture = np.random.default_rng(0).random((8, 12, 3))
    maps = np.zeros((2, 3, 2, 3))
    maps[0, 1] = [[0.1, 0.4, 0.0], [0.0, 0.0, 0.2]]
    maps[1, 2] = 0.01
    axes = attention_figure(picture, maps, ["layer 0", "layer 2"], ["a", "red", "dog"]).axes
    assert [ax.get_title() for ax in axes[:3]] == ["a", "red", "dog"]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["layer 0", "layer 2"]
    np.testing.assert_allclose(axes[1].images[0].get_array(), picture)
    np.testing.assert_allclose(1 - darkness(axes[1]) / 0.75, [[0.25, 1, 0], [0, 0, 0.5]], atol=1e-12)
    np.testing.assert_allclose(darkness(axes[0]), 0.75)  # no attention at all
    np.testing.assert_allclose(darkness(axes[5]), 0.0)  # the same everywhere
    # Both lie on the same place, with the picture's own proportions.
    assert axes[1].images[0].get_extent() == axes[1].images[1].get_extent()
    left, right, bottom, top = axes[1].images[0].get_extent()
    assert axes[1].get_aspect() * (bottom - top) / (right - left) == pytest.approx(8 / 12)


def test_each_map_needs_a_name():
    with pytest.raises(ValueError, match=r"1 rows.*2 columns.*1 by 3"):
        attention_figure(np.zeros((4, 4, 3)), np.zeros((1, 3, 2, 2)), ["a"], ["b", "c"])


def row(objects, words, layer, head, share, **values):
    other = 0.02 if objects == 2 else None
    found = {"objects": objects, "words": words, "layer": layer, "head": head, "share": share, "uniform": 0.06}
    return found | {"ci95": [share - 0.01, share + 0.02], "elsewhere": 0.1, "other": other} | values


def test_shares_are_drawn_by_layer_and_head():
    rows = [
        row(objects, words, layer, head, 0.1 + layer / 10 + (head or 0) / 100)
        for objects in (2, 1)
        for words in ("colour", "shape")
        for layer in (0, 4)
        for head in (0, 1, None)
    ] + [row(2, "colour", None, None, 0.9)]
    figure = share_figure(rows)
    assert [ax.get_title("left").strip() for ax in figure.axes] == ["colour words", "shape words"] * 2
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["two objects"] * 2 + ["one object"] * 2
    heads, means = (
        line.get_ydata()
        for line in figure.axes[0].lines
        if to_hex(line.get_color()) == BLUE and line.get_marker() == "o"
    )
    np.testing.assert_allclose(heads, [10, 11, 50, 51])
    np.testing.assert_allclose(means, [10, 50])
    segments = np.concatenate([c.get_segments() for c in figure.axes[0].collections])
    np.testing.assert_allclose(segments[0][:, 1], [9, 12])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["layer 0", "layer 4"]
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(6)
    with_others = [sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "x") for ax in figure.axes]
    assert with_others == [6, 6, 0, 0]
