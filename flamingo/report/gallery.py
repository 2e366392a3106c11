"""Pictures with what is said of them: a prompt as it is read, and outputs beside their references."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from PIL import Image as PILImage

from flamingo.report.cards import setting_name
from flamingo.report.style import BLUE, GREEN, INK, MUTED, VERMILION, style
from flamingo.results import Prediction
from flamingo.utils.names import picture_path

#: Of a tile: its width and that of its picture, what is above the picture, and a line of text, in inches.
_TILE, _SIDE, _ABOVE, _LINE = 2.1, 1.9, 0.3, 0.2
#: Letters in a line, of a size in points, that fit the picture's width.
_LETTERS, _SIZE = 25, 10

Word = tuple[str, str]
"""With its colour."""


@dataclass(frozen=True)
class Tile:
    """A picture with a title above it and paragraphs below, each of words in their colours."""

    picture: PILImage.Image
    title: str
    paragraphs: tuple[tuple[Word, ...], ...]
    framed: bool = False


def prompt_figure(
    demonstrations: Sequence[tuple[PILImage.Image, str]], query: PILImage.Image, output: str, columns: int = 5
) -> Figure:
    """A prompt in its order: demonstrations with their captions, then, framed, the query with the model's output."""
    tiles = [
        Tile(picture, f"demonstration {number}", (_plain(caption, INK),))
        for number, (picture, caption) in enumerate(demonstrations, 1)
    ]
    return tiles_figure([*tiles, Tile(query, "query", (_plain(output, BLUE),), framed=True)], columns)


def captions_figure(pictures: Sequence[PILImage.Image], captions: Sequence[str], columns: int = 5) -> Figure:
    """Pictures with a caption each."""
    return tiles_figure([Tile(p, "", (_plain(c, INK),)) for p, c in zip(pictures, captions, strict=True)], columns)


def outputs_figure(
    pictures: Sequence[PILImage.Image],
    outputs: Sequence[str],
    references: Sequence[Sequence[str]],
    titles: Sequence[str] = (),
    columns: int = 5,
) -> Figure:
    """Each output below the reference of its picture that is most like it; words in which they differ are coloured."""
    tiles = []
    for place, (picture, output, own) in enumerate(zip(pictures, outputs, references, strict=True)):
        nearest = max(own, key=lambda text: SequenceMatcher(None, text.split(), output.split()).ratio())
        tiles.append(Tile(picture, titles[place] if titles else "", marked(nearest, output)))
    return tiles_figure(tiles, columns)


def failures(predictions: Iterable[Prediction], limit: int = 10) -> list[Prediction]:
    """Wrong answers without a control: of each query the one with the most demonstrations, those with most first.

    For tasks with an exact match; the others have no wrong answers.
    """
    wrong = [p for p in predictions if p.setting.control is None and p.scores.get("exact_match") == 0]
    queries: dict[str, Prediction] = {}
    for prediction in sorted(wrong, key=lambda p: -p.setting.shots):
        queries.setdefault(prediction.query, prediction)
    return list(queries.values())[:limit]


def failures_figure(predictions: Iterable[Prediction], pictures: Path, limit: int = 10) -> Figure:
    """Those of :func:`failures` whose picture the evaluation kept in the folder ``pictures``."""
    kept = (p for p in predictions if picture_path(pictures, p.setting.task, p.query).is_file())
    wrong = failures(kept, limit)
    opened = [PILImage.open(picture_path(pictures, p.setting.task, p.query)) for p in wrong]
    titles = [setting_name(p.setting) for p in wrong]
    return outputs_figure(opened, [p.output for p in wrong], [p.references for p in wrong], titles)


def marked(reference: str, output: str) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """Their words, in a colour of their own where the other does not have them."""
    expected, said = reference.split(), output.split()
    colours = [MUTED] * len(expected), [INK] * len(said)
    for tag, i, i_end, j, j_end in SequenceMatcher(None, expected, said, autojunk=False).get_opcodes():
        if tag != "equal":
            colours[0][i:i_end] = [GREEN] * (i_end - i)
            colours[1][j:j_end] = [VERMILION] * (j_end - j)
    return tuple(zip(expected, colours[0], strict=True)), tuple(zip(said, colours[1], strict=True))


def tiles_figure(tiles: Sequence[Tile], columns: int) -> Figure:
    """Row by row, each as high as its longest text asks for; of no tiles a figure that says so."""
    columns = max(1, min(columns, len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)] or [[]]
    lines = [max((sum(len(_lines(own)) for own in tile.paragraphs) for tile in row), default=0) for row in rows]
    heights = [_ABOVE + _SIDE + _LINE * (2 + longest) for longest in lines]
    width, height = columns * _TILE, sum(heights)
    with style():
        figure = Figure(figsize=(width, height))
        top = height
        for row, its_height in zip(rows, heights, strict=True):
            for column, tile in enumerate(row):
                left, bottom = column * _TILE, top - _ABOVE - _SIDE
                place = (left / width, bottom / height, _SIDE / width, _SIDE / height)
                _draw(figure.add_axes(place, anchor="SW"), tile)
            top -= its_height
        if not tiles:
            figure.text(0, 0.5, "none", color=MUTED)
    return figure


def _draw(ax: Axes, tile: Tile) -> None:
    ax.imshow(tile.picture)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=tile.framed, color=BLUE, linewidth=2.5)
    ax.set_title(tile.title, loc="left", fontsize=_SIZE, color=BLUE if tile.framed else MUTED)
    paragraphs: list[Artist] = [
        VPacker(
            children=[
                HPacker(children=[TextArea(word, textprops={"color": c, "size": _SIZE}) for word, c in line], sep=4)
                for line in _lines(paragraph)
            ],
            sep=3,
        )
        for paragraph in tile.paragraphs
    ]
    below = AnchoredOffsetbox(
        "upper left", child=VPacker(children=paragraphs, sep=8), pad=0, borderpad=0, frameon=False,
        bbox_to_anchor=(0, -0.04), bbox_transform=ax.transAxes,
    )  # fmt: skip
    ax.add_artist(below)


def _plain(text: str, colour: str) -> tuple[Word, ...]:
    return tuple((word, colour) for word in text.split())


def _lines(words: Sequence[Word]) -> list[list[Word]]:
    """As many words in a line as it has room for, at least one."""
    lines: list[list[Word]] = [[]]
    for word, colour in words:
        if lines[-1] and sum(len(before) + 1 for before, _ in lines[-1]) + len(word) > _LETTERS:
            lines.append([])
        lines[-1].append((word, colour))
    return lines
