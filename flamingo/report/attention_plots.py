"""Plots of attention: maps over an image, and the shares inside objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.report.style import BLUE, GREY, INK, MUTED, VERMILION, frame, new_figure, style

#: A row of attention.json.
AttentionRow = dict[str, Any]


def attention_figure(
    image: Float[np.ndarray, "h w 3"],
    maps: Float[np.ndarray, "rows columns gh gw"],
    row_names: Sequence[str],
    column_names: Sequence[str],
) -> Figure:
    """Returns a figure of attention maps over an image, which is bright where attention is.

    Args:
        image: The image, with values in [0, 1].
        maps: Attention over the encoder's grid or over pixels, not smoothed. Each map is relative to its maximum.
        row_names: The names on the left.
        column_names: The names at the top.

    Raises:
        ValueError: If the numbers of names and maps differ.
    """
    num_rows, num_columns = maps.shape[:2]
    if num_rows != len(row_names) or num_columns != len(column_names):
        names = f"{len(row_names)} rows and {len(column_names)} columns"
        raise ValueError(f"{names} name {num_rows} by {num_columns} maps")
    width = 1.2 * num_columns + 0.6
    height = 1.25 * num_rows + 0.3
    with style():
        figure = new_figure(width, height)
        axes = figure.subplots(num_rows, num_columns, squeeze=False)
        for i, row_name in enumerate(row_names):
            axes[i, 0].set_ylabel(row_name, fontsize=11, color=INK)
            for j in range(num_columns):
                _draw_map(axes[i, j], image, maps[i, j])
        for j, column_name in enumerate(column_names):
            axes[0, j].set_title(column_name, fontsize=11)
    return figure


def _draw_map(axes: Axes, image: Float[np.ndarray, "h w 3"], weights: Float[np.ndarray, "gh gw"]) -> None:
    height, width = image.shape[:2]
    grid_height, grid_width = weights.shape
    extent = (0, grid_width, grid_height, 0)
    aspect = height * grid_width / (width * grid_height)
    axes.imshow(
        image,
        extent=extent,
        aspect=aspect,
        interpolation="bilinear",
    )
    maximum = weights.max()
    relative = weights / maximum if maximum > 0 else np.zeros_like(weights)
    shade = np.zeros((grid_height, grid_width, 4))
    shade[..., 3] = 0.75 * (1 - relative)
    axes.imshow(
        shade,
        extent=extent,
        aspect=aspect,
        interpolation="nearest",
    )
    frame(axes, MUTED, 0.0)


#: The keys of a row that are drawn: name, colour, marker.
_SERIES = {
    "share": ("in the object that the word names", BLUE, "o"),
    "elsewhere": ("attention of another picture's word there", GREY, "_"),
    "other": ("in the other object", VERMILION, "x"),
}


def share_figure(rows: Sequence[AttentionRow]) -> Figure:
    """Returns a figure of the rows of ``attention.json``: a panel for each number of objects and attribute.

    Small points are heads, large points means over the heads of a layer. Shares have 95% intervals.
    """
    panels: dict[tuple[int, str], list[AttentionRow]] = {}
    for row in rows:
        panel = (row["objects"], row["words"])
        panels.setdefault(panel, []).append(row)
    with style():
        figure = new_figure(3.6 * len(panels), 4.1)
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (panel, panel_rows) in zip(all_axes, panels.items(), strict=True):
            num_objects, attribute = panel
            _draw_panel(axes, panel_rows)
            axes.set_title(f"{attribute} words\n", loc="left", fontweight="bold", fontsize=13)
            subtitle = "two objects" if num_objects == 2 else "one object"
            axes.text(0, 1.04, subtitle, transform=axes.transAxes, color=MUTED)
        all_axes[0].set_ylabel("share of the attention, %")
        all_axes[0].set_ylim(bottom=0)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=len(labels),
            frameon=False,
            fontsize=11,
        )
    return figure


def _draw_panel(axes: Axes, rows: Sequence[AttentionRow]) -> None:
    axes.axhline(
        100 * rows[0]["uniform"],
        color=INK,
        lw=1.2,
        ls=(0, (4, 3)),
        label="attention spread evenly",
        zorder=1,
    )
    layers: list[int] = []
    heads = []
    means = []
    for row in rows:
        if row["layer"] is None:
            continue
        if row["layer"] not in layers:
            layers.append(row["layer"])
        if row["head"] is None:
            means.append(row)
        else:
            heads.append(row)
    num_heads = 1 + max(row["head"] for row in heads)
    head_x = []
    for row in heads:
        offset = 0.8 * row["head"] / (num_heads + 1)
        head_x.append(layers.index(row["layer"]) + offset)
    mean_offset = 0.8 * num_heads / (num_heads + 1)
    mean_x = [layers.index(row["layer"]) + mean_offset for row in means]
    for key, (name, color, marker) in _SERIES.items():
        head_look = {
            "marker": marker,
            "color": color,
            "ms": 4.5,
            "alpha": 0.6,
        }
        mean_look = {
            "marker": marker,
            "color": color,
            "ms": 8,
            "label": name,
        }
        _draw_points(axes, key, head_x, heads, head_look)
        _draw_points(axes, key, mean_x, means, mean_look)
    ticks = [i + 0.35 for i in range(len(layers))]
    names = [f"layer {layer}" for layer in layers]
    axes.set_xticks(ticks, names)
    axes.set_xlim(-0.2, len(layers) - 0.1)


def _draw_points(axes: Axes, key: str, x: Sequence[float], rows: Sequence[AttentionRow], look: dict[str, Any]) -> None:
    """Draws the values of a key, which all or none of a panel's rows have, and the intervals of shares."""
    values = [row[key] for row in rows]
    if None in values:
        axes.plot([], [], ls="none", mew=2, **look)
        return
    percentages = [100 * value for value in values]
    axes.plot(x, percentages, ls="none", mew=2, **look)
    if key != "share":
        return
    lows = []
    highs = []
    for row in rows:
        low, high = row["ci95"]
        lows.append(100 * low)
        highs.append(100 * high)
    axes.vlines(x, lows, highs, color=look["color"], lw=1.6)
