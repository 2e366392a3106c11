"""Many runs -> one table: each variant's mean over its seeds, and its difference to the baseline, with intervals.

The spread over seeds is taken to be the same for all variants of one score, and estimated from all of them together:
two seeds of one variant alone would say next to nothing. Intervals are Student's, of 95%. They are of training anew
on the same task; that its queries are a sample, too, is in the intervals of each run's own ``scores.json``.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from flamingo.report.curves import HEADLINES, metric_name
from flamingo.report.escaping import csv_cell
from flamingo.report.page import as_pictures, template
from flamingo.report.runs import Variant, read_runs
from flamingo.report.style import BLUE, GREY, MUTED, new_figure, png, style
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_bytes

Interval = tuple[float, float] | None
COLUMNS = ("variant", "task", "shots", "metric", "mean", "ci_low", "ci_high", "seeds", "paper")
#: Behind those of the table of the paper's ablations.
DIFFERENCE = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class Row:
    """A score of one variant, as the scorer gives it; intervals are None where no variant has two seeds."""

    variant: str
    task: str
    shots: int
    metric: str
    mean: float
    interval: Interval
    values: tuple[float, ...]
    """One for each seed."""
    paper: float | None
    difference: float | None
    """To the baseline; None for itself."""
    difference_interval: Interval


def compare(variants: Sequence[Variant], baseline: str) -> list[Row]:
    """Rows by score, and then in the order of the variants."""
    keys = dict.fromkeys(key for variant in variants for run in variant.runs for key in run.scores)
    rows = []
    for key in sorted(keys, key=lambda key: (key[0], key[1], _weight(key[2]))):
        values = {
            variant.name: tuple(run.scores[key] for run in variant.runs if key in run.scores) for variant in variants
        }
        spread = _common_spread(list(values.values()))
        base = values[baseline]
        for variant in variants:
            own = values[variant.name]
            if not own:
                continue  # It is listed as incomplete.
            mean, difference, apart = fmean(own), None, None
            if base and variant.name != baseline:
                difference = mean - fmean(base)
                apart = _around(difference, spread, 1 / len(own) + 1 / len(base))
            interval = _around(mean, spread, 1 / len(own))
            rows.append(Row(variant.name, *key, mean, interval, own, variant.paper, difference, apart))
    return rows


def _weight(metric: str) -> tuple[int, str]:
    return (HEADLINES.index(metric) if metric in HEADLINES else len(HEADLINES), metric)


def _common_spread(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within groups, over all of them, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups if group)
    squares = sum((value - fmean(group)) ** 2 for group in groups if group for value in group)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def _around(middle: float, spread: tuple[float, int], share: float) -> Interval:
    deviation, freedom = spread
    if not freedom:
        return None
    half = student(freedom) * deviation * math.sqrt(share)
    return (middle - half, middle + half)


def student(freedom: int) -> float:
    """What |t| stays below in 95 of 100 cases, for so many degrees of freedom.

    With t = sqrt(freedom) * tan(angle) the density becomes cos(angle) ** (freedom - 1), on a finite range.
    """
    angles = (np.arange(400_000) + 0.5) / 400_000 * math.pi / 2
    mass = np.cumsum(np.cos(angles) ** (freedom - 1))
    return float(math.sqrt(freedom) * np.tan(angles[np.searchsorted(mass, 0.95 * mass[-1])]))


def write_comparison(folders: Sequence[Path], output: Path, baseline: str | None = None) -> list[Path]:
    """``output`` with the endings ``.md``, ``.csv``, ``.html`` and ``.png``; returns their paths.

    The baseline, which comes first, is the variant of that name; by default the one called "baseline", or else the
    first. Raises UserError, and writes nothing, where no run is finished and evaluated, and for a baseline that is
    not there.
    """
    variants, problems = read_runs(folders)
    names = [variant.name for variant in variants]
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
        raise UserError(f"there is no run to compare: {reasons or 'no folder has that name'}")
    chosen = baseline or ("baseline" if "baseline" in names else names[0])
    if chosen not in names:
        raise UserError(f"the baseline {chosen!r} is not among the variants: {'; '.join(names)}")
    rows = compare(sorted(variants, key=lambda variant: variant.name != chosen), chosen)
    figure = comparison_figure(rows, chosen)
    shown = {
        "title": f"{len(names)} variants, {sum(len(variant.runs) for variant in variants)} runs",
        "baseline": chosen,
        "overview": _overview(rows),
        "tables": _tables(rows),
        "problems": problems,
        "plots": as_pictures(figure),
    }
    written = {
        "md": template("comparison.md").render(shown).encode(),
        "csv": _csv(rows).encode(),
        "html": template("comparison.html").render(shown).encode(),
        "png": png(figure),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, content in written.items():
        path = output.with_name(f"{output.name}.{kind}")
        write_bytes(path, content)
        paths.append(path)
    return paths


def _overview(rows: Sequence[Row]) -> dict[str, list]:
    """A line per variant: of each task its first metric at the most shots, and the paper's figure."""
    panels = _panels(rows)
    paper = {row.variant: row.paper for row in rows}
    base = next((row.paper for row in rows if row.difference is None), None)
    lines = []
    for variant in paper:
        line = [variant]
        for panel in panels:
            row = next((row for row in panel if row.variant == variant), None)
            found = row and (_number(row.mean), _sign(row.difference), _range(row.difference_interval))
            line += found or ("", "", "")
        theirs = paper[variant]
        apart = None if theirs is None or base is None or theirs == base else (theirs - base) / 100
        lines.append([*line, "" if theirs is None else f"{theirs:g}", _sign(apart)])
    titles = [f"{panel[0].task}, {panel[0].shots} shots: {metric_name(panel[0].metric)}" for panel in panels]
    return {"titles": titles, "lines": lines}


def _panels(rows: Sequence[Row]) -> list[list[Row]]:
    """For each task the rows of its first metric at the most shots."""
    panels = []
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task and row.metric == _headline(rows, task)]
        panels.append([row for row in own if row.shots == max(row.shots for row in own)])
    return panels


def _tables(rows: Sequence[Row]) -> list[dict[str, object]]:
    """One for each task, number of shots and headline metric; the CSV has the other metrics, too."""
    tables: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.metric in HEADLINES:
            tables.setdefault((row.task, row.shots, row.metric), []).append(row)
    return [
        {
            "title": f"{task}, {shots} shots: {metric_name(metric)}",
            "rows": [
                (
                    row.variant,
                    _number(row.mean),
                    _range(row.interval),
                    _sign(row.difference),
                    _range(row.difference_interval),
                    len(row.values),
                    "" if row.paper is None else f"{row.paper:g}",
                )
                for row in found
            ],
        }
        for (task, shots, metric), found in tables.items()
    ]


def _headline(rows: Sequence[Row], task: str) -> str:
    """The most telling metric that the task has."""
    return min((row.metric for row in rows if row.task == task), key=_weight)


def _number(value: float) -> str:
    return f"{100 * value:.1f}"


def _sign(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f}"


def _range(interval: Interval) -> str:
    return "" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}"


def _csv(rows: Sequence[Row]) -> str:
    """Values as the scorer gives them; unknown ones are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS + DIFFERENCE)
    for row in rows:
        numbers = (row.mean, *(row.interval or (None, None)))
        apart = (row.difference, *(row.difference_interval or (None, None)))
        rounded, difference = ([None if n is None else round(n, 4) for n in own] for own in (numbers, apart))
        names = [csv_cell(name) for name in (row.variant, row.task, row.shots, row.metric)]
        writer.writerow([*names, *rounded, len(row.values), row.paper, *difference])
    return stream.getvalue()


def comparison_figure(rows: Sequence[Row], baseline: str) -> Figure:
    """Means (times 100) with intervals, and each seed: a panel per task, of its first metric, at the most shots."""
    panels = _panels(rows)
    names = list(dict.fromkeys(row.variant for row in rows))
    with style():
        figure = new_figure(3.2 + 3.6 * len(panels), 1.3 + 0.34 * len(names))
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, own in zip(axes, panels, strict=True):
            for row in own:
                y, color = names.index(row.variant), BLUE if row.variant == baseline else GREY
                if row.variant == baseline:
                    ax.axvline(100 * row.mean, color=BLUE, lw=0.9, alpha=0.6, zorder=1)
                if row.interval is not None:
                    ax.hlines(y, *(100 * end for end in row.interval), color=color, lw=2)
                ax.plot([100 * v for v in row.values], [y] * len(row.values), "|", color=MUTED, ms=11, mew=1.2)
                ax.plot(100 * row.mean, y, "o", color=color, ms=7)
            ax.set_title(f"{own[0].task}, {own[0].shots} shots", loc="left", fontweight="bold", fontsize=12)
            ax.set_xlabel(f"{metric_name(own[0].metric)} \N{MULTIPLICATION SIGN} 100")
            ax.grid(axis="x")
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure
