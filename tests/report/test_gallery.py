"""Images with texts: contents, order and colours, and the answers that count as failures."""

import numpy as np
from matplotlib.offsetbox import TextArea
from PIL import Image

from flamingo.report.gallery import (
    captions_figure,
    failures,
    failures_figure,
    marked,
    outputs_figure,
    prompt_figure,
    words_of,
)
from flamingo.report.style import BLUE, GREEN, INK, MUTED, VERMILION, png
from flamingo.results import read_predictions
from flamingo.utils.names import picture_path
from tests.report import fake

RED, BLACK, WIDE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "black"), Image.new("RGB", (20, 10))


def words(ax):
    return [area.get_text() for area in ax.findobj(TextArea)]


def texts(ax):
    """The same as they are placed and coloured."""
    return [text for area in ax.findobj(TextArea) for text in area.get_children()]


def test_a_prompt_is_drawn_in_order_with_the_query_framed_last():
    figure = prompt_figure([(RED, "a dog runs."), (WIDE, "a cat.")], BLACK, "a bird sings.")
    assert [ax.get_title("left") for ax in figure.axes] == ["demonstration 1", "demonstration 2", "query"]
    assert [" ".join(words(ax)) for ax in figure.axes] == ["a dog runs.", "a cat.", "a bird sings."]
    assert [ax.spines["top"].get_visible() for ax in figure.axes] == [False, False, True]
    for ax, picture in zip(figure.axes, (RED, WIDE, BLACK)):
        np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(picture))
    assert {text.get_color() for text in texts(figure.axes[2])} == {BLUE}
    lefts = [ax.get_position(original=True).x0 for ax in figure.axes]
    assert lefts == sorted(lefts)
    assert png(figure).startswith(b"\x89PNG")


def test_long_texts_wrap_and_more_images_start_new_rows():
    captions = ["a word", "twenty-five-letters-a-line, then more of the same kind", *["x"] * 4]
    figure = prompt_figure([(RED, caption) for caption in captions], BLACK, "")
    tops = [round(ax.get_position(original=True).y1, 6) for ax in figure.axes]
    assert tops == [tops[0]] * 5 + [tops[5]] * 2 and tops[5] < tops[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts(figure.axes[1])]
    picture, below = (figure.axes[place].get_window_extent() for place in (1, 6))
    starts = [box.y0 for box in boxes if abs(box.x0 - picture.x0) < 1]
    assert len(starts) == 3, "the first letter of each line stands below the picture's edge"
    assert max(box.x1 for box in boxes) <= picture.x1 + 5
    assert below.y1 < min(starts) < max(starts) < picture.y0


def test_words_longer_than_a_line_are_cut():
    assert [word for word, _ in words_of("一" * 30 + " and")] == ["一" * 12, "一" * 12, "一" * 6, "and"]
    assert [word for word, _ in words_of("a" * 30)] == ["a" * 25, "a" * 5]
    figure = captions_figure([RED], ["一" * 30 + " and"])
    assert words(figure.axes[0]) == ["一" * 12, "一" * 12, "一" * 6, "and"]
    figure.draw_without_rendering()
    rows = {round(text.get_window_extent().y0) for text in texts(figure.axes[0])}
    assert len(rows) == 3


def test_words_that_the_other_text_lacks_are_coloured():
    reference, output = marked("in view: 3 big hearts", "in view: three big red hearts")
    assert reference == (("in", MUTED), ("view:", MUTED), ("3", GREEN), ("big", MUTED), ("hearts", MUTED))
    assert [word for word, colour in output if colour == VERMILION] == ["three", "red"]
    assert {colour for word, colour in output if word not in ("three", "red")} == {INK}


def test_outputs_stand_below_the_reference_most_like_them():
    figure = outputs_figure([RED], ["a small dog runs"], [["two people sit", "a dog runs", "a lake"]], ["title"])
    (ax,) = figure.axes
    assert words(ax) == ["a", "dog", "runs", "a", "small", "dog", "runs"]
    assert ax.get_title("left") == "title"


def test_captions_stand_below_their_own_pictures():
    figure = captions_figure([RED, WIDE], ["red", "wide and black"])
    assert [" ".join(words(ax)) for ax in figure.axes] == ["red", "wide and black"]
    assert [ax.images[0].get_array().shape[:2] for ax in figure.axes] == [(8, 8), (10, 20)]


def failed(query, shots, output="wrong", exact=False, **kwargs):
    demonstrations = kwargs.pop("demonstrations", "random" if shots else None)
    return fake.prediction(query, shots=shots, output=output, exact=exact, demonstrations=demonstrations, **kwargs)


def test_failures_are_wrong_answers_once_a_query_at_most_shots(tmp_path):
    rows = [
        failed("a", 0),
        failed("b", 1),
        failed("b", 2, output="worst"),
        failed("b", 4, exact=True),
        failed("c", 4, control="blind"),
        failed("d", 4, output="right", exact=True),
        failed("e", 4) | {"scores": {}},
    ]
    fake.write_lines(tmp_path / "p.jsonl", rows)
    predictions = list(read_predictions(tmp_path / "p.jsonl"))
    assert [(p.query, p.setting.shots, p.output) for p in failures(predictions)] == [
        ("b", 2, "worst"),
        ("a", 0, "wrong"),
    ]
    assert [p.query for p in failures(predictions, limit=1)] == ["b"]


def test_failures_are_shown_where_their_picture_was_kept(tmp_path):
    fake.write_lines(tmp_path / "p.jsonl", [failed("x/a", 1), failed("x/b", 2)])
    path = picture_path(tmp_path, "synthetic_captions", "x/a")
    path.parent.mkdir()
    RED.save(path)
    (ax,) = failures_figure(read_predictions(tmp_path / "p.jsonl"), tmp_path).axes
    assert ax.get_title("left") == "1 shot"
    np.testing.assert_array_equal(ax.images[0].get_array()[..., :3], np.asarray(RED))
    none = failures_figure([], tmp_path)
    assert [text.get_text() for text in none.texts] == ["none"]
