"""Plots of pictures with texts: a prompt in its order, captions, and outputs with their references."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from unicodedata import east_asian_width

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from PIL import Image as PILImage

from flamingo.report.cards import setting_name
from flamingo.report.style import BLUE, GREEN, INK, MUTED, VERMILION, style
from flamingo.results import Prediction
from flamingo.utils.names import picture_path

#: The width of a tile in inches.
_TILE = 2.1
#: The width and height of its picture in inches.
_SIDE = 1.9
#: The height of the title above the picture in inches.
_ABOVE = 0.3
#: The height of a line of text in inches.
_LINE = 0.2
#: The number of letters in a line that fit the picture's width.
_LETTERS = 25
#: The size of the font in points.
_SIZE = 10

Word = tuple[str, str]
"""A word, and its colour."""


@dataclass(frozen=True)
class Tile:
    """A picture with a title above it and paragraphs below, each of words in their colours."""

    picture: PILImage.Image
    title: str
    paragraphs: tuple[tuple[Word, ...], ...]
    framed: bool = False


def prompt_figure(
    demonstrations: Sequence[tuple[PILImage.Image, str]],
    query: PILImage.Image,
    output: str,
    columns: int = 5,
) -> Figure:
    """Returns a prompt in its order: demonstrations with their captions, then the framed query with the output."""
    tiles = []
    for number, (picture, caption) in enumerate(demonstrations, 1):
        paragraph = words_of(caption)
        tiles.append(Tile(picture, f"demonstration {number}", (paragraph,)))
    paragraph = words_of(output, BLUE)
    tiles.append(Tile(query, "query", (paragraph,), framed=True))
    return tiles_figure(tiles, columns)


def captions_figure(pictures: Sequence[PILImage.Image], captions: Sequence[str], columns: int = 5) -> Figure:
    """Returns pictures with one caption each."""
    tiles = []
    for picture, caption in zip(pictures, captions, strict=True):
        paragraph = words_of(caption)
        tiles.append(Tile(picture, "", (paragraph,)))
    return tiles_figure(tiles, columns)


def outputs_figure(
    pictures: Sequence[PILImage.Image],
    outputs: Sequence[str],
    references: Sequence[Sequence[str]],
    titles: Sequence[str] = (),
    columns: int = 5,
) -> Figure:
    """Returns each output below the most similar reference of its picture. Words in which they differ are coloured."""
    tiles = []
    titles = titles or [""] * len(outputs)
    for picture, output, of_picture, title in zip(pictures, outputs, references, titles, strict=True):
        reference = max(of_picture, key=partial(_similarity, output))
        tiles.append(Tile(picture, title, marked(reference, output)))
    return tiles_figure(tiles, columns)


def _similarity(output: str, reference: str) -> float:
    matcher = SequenceMatcher(None, reference.split(), output.split())
    return matcher.ratio()


def failures(predictions: Iterable[Prediction], limit: int = 10) -> list[Prediction]:
    """Returns wrong answers without a control, for each query the one with the most shots; most shots first.

    Only tasks with an exact match have wrong answers.
    """
    wrong = []
    for prediction in predictions:
        if prediction.setting.control is None and prediction.scores.get("exact_match") == 0:
            wrong.append(prediction)
    wrong.sort(key=lambda prediction: -prediction.setting.shots)
    by_query: dict[str, Prediction] = {}
    for prediction in wrong:
        by_query.setdefault(prediction.query, prediction)
    return list(by_query.values())[:limit]


def failures_figure(predictions: Iterable[Prediction], pictures: Path, limit: int = 10) -> Figure:
    """Returns the :func:`failures` whose picture the evaluation saved in the folder ``pictures``."""
    with_picture = (prediction for prediction in predictions if _path(pictures, prediction).is_file())
    images = []
    outputs = []
    references = []
    titles = []
    for prediction in failures(with_picture, limit):
        images.append(PILImage.open(_path(pictures, prediction)))
        outputs.append(prediction.output)
        references.append(prediction.references)
        titles.append(setting_name(prediction.setting))
    return outputs_figure(images, outputs, references, titles)


def _path(pictures: Path, prediction: Prediction) -> Path:
    return picture_path(pictures, prediction.setting.task, prediction.query)


def marked(reference: str, output: str) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """Returns the words of both texts. Words that the other text does not have are coloured."""
    reference_words = reference.split()
    output_words = output.split()
    reference_colors = [MUTED] * len(reference_words)
    output_colors = [INK] * len(output_words)
    matcher = SequenceMatcher(None, reference_words, output_words, autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag != "equal":
            reference_colors[i:i_end] = [GREEN] * (i_end - i)
            output_colors[j:j_end] = [VERMILION] * (j_end - j)
    marked_reference = zip(reference_words, reference_colors, strict=True)
    marked_output = zip(output_words, output_colors, strict=True)
    return tuple(marked_reference), tuple(marked_output)


def words_of(text: str, color: str = INK) -> tuple[Word, ...]:
    """Returns the words of a text in one colour. A word that is longer than a line, as in Chinese, is cut."""
    words: list[Word] = []
    for word in text.split():
        letters = _LETTERS * len(word) // _width(word)
        words += [(word[start : start + letters], color) for start in range(0, len(word), letters)]
    return tuple(words)


def tiles_figure(tiles: Sequence[Tile], columns: int) -> Figure:
    """Returns tiles row by row. Each row is as high as its longest text needs. Without tiles the figure says "none"."""
    columns = max(1, min(columns, len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)] or [[]]
    heights = [_row_height(row) for row in rows]
    width = columns * _TILE
    height = sum(heights)
    with style():
        figure = Figure(figsize=(width, height))
        top = height
        for row, row_height in zip(rows, heights, strict=True):
            bottom = top - _ABOVE - _SIDE
            for column, tile in enumerate(row):
                left = column * _TILE
                box = (left / width, bottom / height, _SIDE / width, _SIDE / height)
                ax = figure.add_axes(box, anchor="SW")
                _draw_tile(ax, tile)
            top -= row_height
        if not tiles:
            figure.text(0, 0.5, "none", color=MUTED)
    return figure


def _row_height(row: Sequence[Tile]) -> float:
    """Returns the height of a row in inches."""
    max_lines = 0
    for tile in row:
        num_lines = sum(len(_lines(paragraph)) for paragraph in tile.paragraphs)
        max_lines = max(max_lines, num_lines)
    return _ABOVE + _SIDE + _LINE * (2 + max_lines)


def _draw_tile(ax: Axes, tile: Tile) -> None:
    ax.imshow(tile.picture)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=tile.framed, color=BLUE, linewidth=2.5)
    color = BLUE if tile.framed else MUTED
    ax.set_title(tile.title, loc="left", fontsize=_SIZE, color=color)
    paragraphs = [_paragraph(words) for words in tile.paragraphs]
    below = AnchoredOffsetbox(
        "upper left",
        child=VPacker(children=paragraphs, sep=8),
        pad=0,
        borderpad=0,
        frameon=False,
        bbox_to_anchor=(0, -0.04),
        bbox_transform=ax.transAxes,
    )
    ax.add_artist(below)


def _paragraph(words: Sequence[Word]) -> Artist:
    lines: list[Artist] = []
    for line in _lines(words):
        areas: list[Artist] = []
        for word, color in line:
            look = {"color": color, "size": _SIZE}
            areas.append(TextArea(word, textprops=look))
        lines.append(HPacker(children=areas, sep=4))
    return VPacker(children=lines, sep=3)


def _lines(words: Sequence[Word]) -> list[list[Word]]:
    """Returns lines of as many words as fit, at least one each."""
    lines: list[list[Word]] = [[]]
    width = 0
    for word, color in words:
        if lines[-1] and width + _width(word) > _LETTERS:
            lines.append([])
            width = 0
        lines[-1].append((word, color))
        width += _width(word) + 1
    return lines


def _width(word: str) -> int:
    """Returns the width of a word in letters. A Chinese letter is as wide as two others."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in word)
