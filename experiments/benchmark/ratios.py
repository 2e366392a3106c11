"""Rows of results: the measurements of two implementations as JSON, a table and a plot."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from experiments.benchmark.worker import Machine
from flamingo.report.style import BLUE, GREY, VERMILION, new_figure, style
from flamingo.utils.io import atomic_file, write_text


@dataclass
class Ratio:
    """A case of a benchmark: the medians of both implementations, and the ratio of the peer to ours."""

    benchmark: str
    case: str
    peer: str
    ours: float
    theirs: float
    unit: str
    #: The median and the range of the ratios of alternating measurements.
    ratio: float
    spread: list[float]


def make_ratio(
    benchmark: str, case: str, peer: str, ours: Sequence[float], theirs: Sequence[float], unit: str
) -> Ratio:
    """Returns the row of alternating measurements."""
    ratios = [peer_value / our_value for our_value, peer_value in zip(ours, theirs, strict=True)]
    return Ratio(
        benchmark=benchmark,
        case=case,
        peer=peer,
        ours=statistics.median(ours),
        theirs=statistics.median(theirs),
        unit=unit,
        ratio=statistics.median(ratios),
        spread=[min(ratios), max(ratios)],
    )


def read_ratios(file: Path) -> list[Ratio]:
    """Returns the rows of an earlier run, or no rows."""
    if not file.exists():
        return []
    return [Ratio(**values) for values in json.loads(file.read_text())]


def write_ratios(output: Path, rows: Sequence[Ratio], agreement: object, machine: Machine) -> None:
    """Writes ``results.json``, ``results.md`` and ``results.png``. The table ends with the agreement of outputs."""
    values = [asdict(row) for row in rows]
    write_text(output / "results.json", json.dumps(values, indent=1) + "\n")
    write_text(output / "results.md", f"{_table(rows)}\n{agreement}\n\n{_describe(machine)}\n")
    _plot(rows, output / "results.png")


def _table(rows: Sequence[Ratio]) -> str:
    lines = [
        "| benchmark | case | peer | ours | theirs | ratio (least to most) |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row.spread
        cells = [
            row.benchmark,
            row.case,
            row.peer,
            f"{row.ours:.4g} {row.unit}",
            f"{row.theirs:.4g} {row.unit}",
            f"{row.ratio:.2f} ({low:.2f} to {high:.2f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _describe(machine: Machine) -> str:
    if machine.device == "cpu":
        device = f"{machine.threads} threads on {os.cpu_count()} CPU cores, {platform.machine()}"
    else:
        device = torch.cuda.get_device_name(machine.device)
    return f"{device}, {machine.precision}, torch {torch.__version__}, {date.today():%B %Y}"


def _plot(rows: Sequence[Ratio], file: Path) -> None:
    """Plots the ratios, and the time of a training step by images and by tokens."""
    with style():
        compared = [row for row in rows if not row.case.startswith("by ")]
        height = max(4.0, 1.5 + 0.34 * len(compared))
        figure = new_figure(13.0, height)
        ratio_axes, image_axes, token_axes = figure.subplots(1, 3, width_ratios=[2, 1, 1])
        _plot_ratios(ratio_axes, compared)
        for axes, kind in ((image_axes, "images"), (token_axes, "tokens")):
            steps = [row for row in rows if row.case.startswith(f"by {kind}")]
            _plot_steps(axes, steps, kind)
        with atomic_file(file, "wb") as stream:
            figure.savefig(stream, format="png", dpi=120)


def _plot_ratios(axes: Axes, rows: Sequence[Ratio]) -> None:
    names, ratios, below, above = [], [], [], []
    for row in rows:
        low, high = row.spread
        names.append(f"{row.benchmark}, {row.case}, {row.peer}")
        ratios.append(row.ratio)
        below.append(row.ratio - low)
        above.append(high - row.ratio)
    axes.errorbar(ratios, names, xerr=[below, above], fmt="o", color=BLUE)
    axes.axvline(1, color=GREY)
    axes.set(xscale="log", xlabel="theirs / ours")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.invert_yaxis()


def _plot_steps(axes: Axes, rows: Sequence[Ratio], kind: str) -> None:
    counts = [int(row.case.split()[-1]) for row in rows]
    ours = [row.ours for row in rows]
    theirs = [row.theirs for row in rows]
    axes.plot(counts, ours, marker="o", color=BLUE, label="ours")
    axes.plot(counts, theirs, marker="o", color=VERMILION, label="theirs")
    axes.set(xlabel=f"{kind} a document", ylabel="s a training step", xlim=(0, None), ylim=(0, None))
    axes.set_visible(bool(rows))
    if rows:
        axes.legend()
