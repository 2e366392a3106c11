"""Attention, drawn: on a picture, and how much of it falls on what words name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.report.style import BLUE, GREY, INK, MUTED, VERMILION, frame, new_figure, style


def attention_figure(
    picture: Float[np.ndarray, "h w 3"],
    maps: Float[np.ndarray, "rows columns gh gw"],
    rows: Sequence[str],
    columns: Sequence[str],
) -> Figure:
    """Maps of attention on a picture, which is lit where attention is, each map relative to its own greatest value.

    A map that is the same everywhere lights all of the picture. ``gh`` and ``gw`` may be the encoder's grid or pixels;
    nothing is smoothed. ``rows`` and ``columns`` stand beside and above.
    """
    shape = maps.shape[:2]
    if shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns name {shape[0]} by {shape[1]} maps")
    with style():
        figure = new_figure(1.2 * shape[1] + 0.6, 1.25 * shape[0] + 0.3)
        axes = figure.subplots(*shape, squeeze=False).flatten()
        for place, ax in enumerate(axes):
            i, j = divmod(place, shape[1])
            _draw_map(ax, picture, maps[i, j])
            if i == 0:
                ax.set_title(columns[j], fontsize=11)
            if j == 0:
                ax.set_ylabel(rows[i], fontsize=11, color=INK)
    return figure


def _draw_map(ax: Axes, picture: Float[np.ndarray, "h w 3"], weights: Float[np.ndarray, "gh gw"]) -> None:
    (height, width), (gh, gw) = picture.shape[:2], weights.shape
    aspect = height * gw / (width * gh)
    ax.imshow(picture, extent=(0, gw, gh, 0), aspect=aspect, interpolation="bilinear")
    # A dark sheet over it, with holes.
    sheet = np.zeros((gh, gw, 4))
    greatest = weights.max()
    sheet[..., 3] = 0.75 * (1 - weights / greatest if greatest > 0 else 1)
    ax.imshow(sheet, extent=(0, gw, gh, 0), aspect=aspect, interpolation="nearest")
    frame(ax, MUTED, 0.0)


#: What is drawn of a row of attention.json: its name, colour, marker.
_SERIES = {
    "share": ("in the object that the word names", BLUE, "o"),
    "elsewhere": ("attention of another picture's word there", GREY, "_"),
    "other": ("in the other object", VERMILION, "x"),
}


def share_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """The rows of ``attention.json``: a panel for each kind of scene and of word, a point for each layer and head.

    Points of a layer's mean over heads are large; shares have their 95% intervals.
    """
    panels = list(dict.fromkeys((row["objects"], row["words"]) for row in rows))
    with style():
        figure = new_figure(3.6 * len(panels), 4.1)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False).flatten()
        for ax, (objects, words) in zip(axes, panels, strict=True):
            _draw_shares(ax, [r for r in rows if (r["objects"], r["words"]) == (objects, words)])
            number = "two objects" if objects == 2 else "one object"
            ax.set_title(f"{words} words\n", loc="left", fontweight="bold", fontsize=13)
            ax.text(0, 1.04, number, transform=ax.transAxes, color=MUTED)
        axes[0].set_ylabel("share of the attention, %")
        axes[0].set_ylim(bottom=0)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False, fontsize=11)
    return figure


def _draw_shares(ax: Axes, rows: Sequence[dict[str, Any]]) -> None:
    layers = list(dict.fromkeys(row["layer"] for row in rows if row["layer"] is not None))
    heads = max(row["head"] for row in rows if row["head"] is not None) + 1
    ax.axhline(100 * rows[0]["uniform"], color=INK, lw=1.2, ls=(0, (4, 3)), label="attention spread evenly", zorder=1)
    for key, (name, color, marker) in _SERIES.items():
        for mean in (False, True):
            points = [r for r in rows if r["layer"] is not None and (r["head"] is None) == mean and r[key] is not None]
            x = [layers.index(r["layer"]) + 0.8 * (heads if mean else r["head"]) / (heads + 1) for r in points]
            y = [100 * r[key] for r in points]
            size = 8 if mean else 4.5
            label = name if mean else None
            ax.plot(x, y, ls="none", marker=marker, ms=size, mew=2, color=color, label=label, alpha=1 if mean else 0.6)
            if key == "share":
                low, high = ([100 * r["ci95"][end] for r in points] for end in (0, 1))
                ax.vlines(x, low, high, color=color, lw=1.6)
    ax.set_xticks([i + 0.35 for i in range(len(layers))], [f"layer {layer}" for layer in layers])
    ax.set_xlim(-0.2, len(layers) - 0.1)
