"""The plot of attention: the largest number of shots, means over seeds, and shares that stack to 100%."""

import pytest
from matplotlib.colors import to_hex

from flamingo.measure_rows import (
    DEMONSTRATION_IMAGE,
    DEMONSTRATION_TEXT,
    FIRST_TOKEN,
    GATED_ENTROPY,
    GATED_NORM,
    QUERY_TEXT,
    SELF_ATTENTION,
)
from flamingo.report.attention_measures_plot import attention_measures_figure
from flamingo.report.style import BLUE, GREEN
from tests.helpers.measures import measure


def gated(name, layer, value, **changes):
    return measure(name=name, layer=layer, value=value, distance=None, part=None, **changes)


def share(layer, part, value, distance=None, **changes):
    return measure(name=SELF_ATTENTION, layer=layer, value=value, distance=distance, part=part, **changes)


def rows():
    """Of two seeds, at 4 shots; fewer shots have other values."""
    found = [gated(GATED_ENTROPY, 1, 0.9, shots=0), share(0, FIRST_TOKEN, 1.0, shots=0)]
    for seed in (0, 1):
        found += [
            gated(GATED_ENTROPY, 1, 0.4 + 0.2 * seed, ci95=(0.3, 0.8), seed=seed),
            gated(GATED_ENTROPY, 3, 0.7, ci95=None, seed=seed),
            gated(GATED_NORM, 1, 0.02, seed=seed),
        ]
        for layer in (0, 1, 2):
            found += [
                share(layer, FIRST_TOKEN, 0.5 - 0.1 * layer, seed=seed),
                share(layer, DEMONSTRATION_TEXT, 0.1, 1, seed=seed),
                share(layer, DEMONSTRATION_TEXT, 0.2, 2, seed=seed),
                share(layer, DEMONSTRATION_IMAGE, 0.05, 1, seed=seed),
                share(layer, QUERY_TEXT, 0.15 + 0.1 * layer, seed=seed),
            ]
    return found


def test_the_largest_number_of_shots_is_drawn_by_layer():
    entropy, norm, shares = attention_measures_figure(rows() + [measure()]).axes
    assert [ax.get_title("left") for ax in (entropy, norm)] == ["Gated attention: entropy", "Gated attention: norm"]
    [line] = entropy.lines
    assert list(line.get_xdata()) == [1, 3] and list(line.get_ydata()) == pytest.approx([0.5, 0.7])
    [interval] = [segments for collection in entropy.collections for segments in collection.get_segments()]
    assert interval.tolist() == [[1, pytest.approx(0.3)], [1, pytest.approx(0.8)]]
    assert list(entropy.get_xticks()) == [1, 3] and entropy.get_ylim() == (0, 1)
    assert "4 shots" in entropy.get_ylabel() and "t\n" in entropy.get_ylabel()
    bars = {(to_hex(bar.get_facecolor()), round(bar.get_x() + 0.4)): bar for bar in shares.patches}
    assert len(bars) == 4 * 3
    assert bars[BLUE, 2].get_height() == pytest.approx(30) and bars[BLUE, 2].get_y() == pytest.approx(30)
    assert bars[GREEN, 2].get_y() == pytest.approx(60)
    for layer in (0, 1, 2):
        assert max(bar.get_y() + bar.get_height() for key, bar in bars.items() if key[1] == layer) == pytest.approx(100)


def test_a_visual_prefix_has_shares_alone():
    prefix = [row for row in rows() if row.name == SELF_ATTENTION]
    [axes] = attention_measures_figure(prefix).axes
    assert axes.get_title("left") == "Self-attention: shares"
    assert attention_measures_figure([measure()]) is None
