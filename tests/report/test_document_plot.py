"""The plot of a document: the colour of each token's image, and a bar for each trained token."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flamingo.report.document_plot import document_figure
from flamingo.report.style import BLUE, GREY, INK, VERMILION

TOKENS = ["<s>", "<image>", " a", " dog\n", "<image>", " a", " cat"]
IMAGE_INDEX = [-1, 0, 0, 0, 1, 1, 1]
TRAINED = [False, False, True, True, False, False, True]


def drawn(tokens=TOKENS, image_index=IMAGE_INDEX, trained=TRAINED, losses=(9.0, 9.0, 1.0, 4.0, 9.0, 9.0, 2.0)):
    pictures = [np.full((8, 8, 3), shade) for shade in (0.2, 0.8)]
    return document_figure(pictures, tokens, image_index, trained, losses).axes


def test_tokens_have_the_colour_of_the_image_that_they_see():
    *pictures, text = drawn()
    assert [to_hex(ax.title.get_color()) for ax in pictures] == [BLUE, VERMILION]
    np.testing.assert_allclose(pictures[1].images[0].get_array(), 0.8)
    *tokens, scale = text.texts
    assert [t.get_text() for t in tokens] == [token.replace("\n", "↵") for token in TOKENS]
    assert [to_hex(t.get_color()) for t in tokens] == [GREY, BLUE, INK, INK, VERMILION, VERMILION, INK]
    boxes = [to_hex(box.get_facecolor()) for box in text.patches[::2]]
    assert boxes == [GREY, BLUE, BLUE, BLUE, VERMILION, VERMILION, VERMILION]
    assert "4.0 nats" in scale.get_text() and "mean 2.33 nats" in scale.get_text()


def test_bars_are_the_losses_of_what_is_trained_on():
    *_, text = drawn()
    heights = np.array([bar.get_height() for bar in text.patches[1::2]])
    np.testing.assert_allclose(heights / heights.max(), [0, 0, 0.25, 1, 0, 0, 0.5])


def test_small_losses_have_small_bars():
    (*_, high), (*_, low) = drawn(), drawn(losses=[0.1] * 7)
    longest = max(bar.get_height() for bar in high.patches[1::2])
    assert max(bar.get_height() for bar in low.patches[1::2]) == pytest.approx(0.1 * longest)


def test_long_documents_are_wrapped_between_tokens():
    *_, text = drawn([" token"] * 40, [0] * 40, [True] * 40, [0.0] * 40)
    places = [(t.get_position()[1], t.get_position()[0]) for t in text.texts[:40]]
    assert places == sorted(places), "in reading order"
    assert len({y for y, _ in places}) == 3 and places[16] == (places[16][0], 0)
    assert max(x for _, x in places) + 6 <= text.get_xlim()[1]


def test_text_alone_is_drawn_without_pictures():
    (text,) = document_figure([], ["a", "b"], [-1, -1], [True, True], [0.0, 1.0]).axes
    assert to_hex(text.patches[0].get_facecolor()) == GREY
