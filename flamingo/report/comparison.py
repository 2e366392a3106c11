"""Many runs -> one table: each variant's mean over its seeds, and its difference to the baseline, with intervals.

The standard deviation over seeds is taken to be the same for all variants of one score, and is estimated from all of
them together: two seeds of one variant alone would say next to nothing. Intervals are Student's, of 95%, and concern
new trainings on the same task. The intervals in each run's own ``scores.json`` concern the sample of queries.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from flamingo.report.curves import HEADLINES, TIMES_100, metric_name
from flamingo.report.escaping import csv_cell
from flamingo.report.page import as_pictures, template
from flamingo.report.style import BLUE, GREY, MUTED, new_figure, png, style
from flamingo.report.variants import ScoreKey, Variant, read_runs
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_bytes

Interval = tuple[float, float] | None
COLUMNS = (
    "variant",
    "task",
    "shots",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "seeds",
    "paper",
)
#: The further columns of the CSV.
DIFFERENCE = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class VariantScore:
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


def compare(variants: Sequence[Variant], baseline: str) -> list[VariantScore]:
    """Returns the rows of all scores, each in the order of the variants."""
    keys: set[ScoreKey] = set()
    for variant in variants:
        for run in variant.runs:
            keys.update(run.scores)
    rows = []
    for key in sorted(keys, key=_key_order):
        rows += _compare_score(variants, baseline, key)
    return rows


def _key_order(key: ScoreKey) -> tuple[str, int, tuple[int, str]]:
    task, shots, metric = key
    return task, shots, _metric_order(metric)


def _compare_score(variants: Sequence[Variant], baseline: str, key: ScoreKey) -> list[VariantScore]:
    values_of = {}
    for variant in variants:
        values_of[variant.name] = tuple(run.scores[key] for run in variant.runs if key in run.scores)
    deviation, freedom = _common_deviation(list(values_of.values()))
    baseline_values = values_of[baseline]
    task, shots, metric = key
    rows = []
    for variant in variants:
        values = values_of[variant.name]
        if not values:
            continue  # It is listed as incomplete.
        mean = fmean(values)
        interval = _interval(mean, deviation, freedom, 1 / len(values))
        difference = None
        difference_interval = None
        if baseline_values and variant.name != baseline:
            difference = mean - fmean(baseline_values)
            variance_share = 1 / len(values) + 1 / len(baseline_values)
            difference_interval = _interval(difference, deviation, freedom, variance_share)
        row = VariantScore(
            variant=variant.name,
            task=task,
            shots=shots,
            metric=metric,
            mean=mean,
            interval=interval,
            values=values,
            paper=variant.paper,
            difference=difference,
            difference_interval=difference_interval,
        )
        rows.append(row)
    return rows


def _metric_order(metric: str) -> tuple[int, str]:
    """Sorts the most telling metrics first."""
    if metric in HEADLINES:
        return HEADLINES.index(metric), metric
    return len(HEADLINES), metric


def _common_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within groups, over all of them, and its degrees of freedom."""
    freedom = 0
    squares = 0.0
    for group in groups:
        if group:
            mean = fmean(group)
            freedom += len(group) - 1
            squares += sum((value - mean) ** 2 for value in group)
    if freedom == 0:
        return 0.0, 0
    return math.sqrt(squares / freedom), freedom


def _interval(middle: float, deviation: float, freedom: int, variance_share: float) -> Interval:
    if freedom == 0:
        return None
    half = student(freedom) * deviation * math.sqrt(variance_share)
    return (middle - half, middle + half)


def student(freedom: int) -> float:
    """Returns the bound of |t| in 95 of 100 cases, for these degrees of freedom."""
    return float(stats.t.ppf(0.975, freedom))


def write_comparison(folders: Sequence[Path], output: Path, baseline: str | None = None) -> list[Path]:
    """Writes ``output`` with the endings ``.md``, ``.csv``, ``.html`` and ``.png``; returns their paths.

    Args:
        folders: Those of the runs.
        output: The path without an ending.
        baseline: The name of the variant that comes first; None: the one called "baseline", or else the first.

    Raises:
        UserError: Where no run is finished and evaluated, and for an unknown baseline. Nothing is written then.
    """
    variants, problems = read_runs(folders)
    names = [variant.name for variant in variants]
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
        raise UserError(f"there is no run to compare: {reasons or 'no folder has that name'}")
    if baseline is None:
        baseline = "baseline" if "baseline" in names else names[0]
    if baseline not in names:
        raise UserError(f"the baseline {baseline!r} is not among the variants: {'; '.join(names)}")
    variants.sort(key=lambda variant: variant.name != baseline)
    rows = compare(variants, baseline)
    figure = comparison_figure(rows, baseline)
    num_runs = sum(len(variant.runs) for variant in variants)
    content = {
        "title": f"{len(names)} variants, {num_runs} runs",
        "baseline": baseline,
        "overview": _overview(rows),
        "tables": _tables(rows),
        "problems": problems,
        "plots": as_pictures(figure),
    }
    files = {
        "md": template("comparison.md").render(content).encode(),
        "csv": _csv(rows).encode(),
        "html": template("comparison.html").render(content).encode(),
        "png": png(figure),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for ending, file_content in files.items():
        path = output.with_name(f"{output.name}.{ending}")
        write_bytes(path, file_content)
        paths.append(path)
    return paths


def _overview(rows: Sequence[VariantScore]) -> dict[str, list[Any]]:
    """A line per variant: of each task its first metric at the most shots, and the paper's figure."""
    panels = _panels(rows)
    papers = {row.variant: row.paper for row in rows}
    baseline_paper = next((row.paper for row in rows if row.difference is None), None)
    lines = []
    for variant, paper in papers.items():
        line = [variant]
        for panel in panels:
            line += _overview_cells(panel, variant)
        difference = None
        if paper is not None and baseline_paper is not None and paper != baseline_paper:
            difference = (paper - baseline_paper) / 100
        line += ["" if paper is None else f"{paper:g}", _sign(difference)]
        lines.append(line)
    titles = [_title(panel[0].task, panel[0].shots, panel[0].metric) for panel in panels]
    return {"titles": titles, "lines": lines}


def _title(task: str, shots: int, metric: str) -> str:
    return f"{task}, {shots} shots: {metric_name(metric)}"


def _overview_cells(panel: Sequence[VariantScore], variant: str) -> list[str]:
    for row in panel:
        if row.variant == variant:
            return [
                _number(row.mean),
                _sign(row.difference),
                _range(row.difference_interval),
            ]
    return ["", "", ""]


def _panels(rows: Sequence[VariantScore]) -> list[list[VariantScore]]:
    """For each task the rows of its first metric at the most shots."""
    panels = []
    for task in dict.fromkeys(row.task for row in rows):
        metric = _headline(rows, task)
        by_shots: dict[int, list[VariantScore]] = {}
        for row in rows:
            if row.task == task and row.metric == metric:
                by_shots.setdefault(row.shots, []).append(row)
        max_shots = max(by_shots)
        panels.append(by_shots[max_shots])
    return panels


def _tables(rows: Sequence[VariantScore]) -> list[dict[str, Any]]:
    """One for each task, number of shots and headline metric; the CSV has the other metrics, too."""
    tables: dict[ScoreKey, list[VariantScore]] = {}
    for row in rows:
        if row.metric in HEADLINES or row.metric == _headline(rows, row.task):
            key = (row.task, row.shots, row.metric)
            tables.setdefault(key, []).append(row)
    content = []
    for key, table_rows in tables.items():
        cells = [_cells(row) for row in table_rows]
        content.append({"title": _title(*key), "rows": cells})
    return content


def _cells(row: VariantScore) -> tuple[str | int, ...]:
    return (
        row.variant,
        _number(row.mean),
        _range(row.interval),
        _sign(row.difference),
        _range(row.difference_interval),
        len(row.values),
        "" if row.paper is None else f"{row.paper:g}",
    )


def _headline(rows: Sequence[VariantScore], task: str) -> str:
    """The most telling metric that the task has."""
    return min((row.metric for row in rows if row.task == task), key=_metric_order)


def _number(value: float) -> str:
    return f"{100 * value:.1f}"


def _sign(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f}"


def _range(interval: Interval) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{_number(low)} to {_number(high)}"


def _csv(rows: Sequence[VariantScore]) -> str:
    """Values as the scorer gives them; unknown ones are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS + DIFFERENCE)
    for row in rows:
        cells: list[Any] = [
            csv_cell(row.variant),
            csv_cell(row.task),
            csv_cell(row.shots),
            csv_cell(row.metric),
        ]
        cells += _rounded(row.mean, row.interval)
        cells += [len(row.values), row.paper]
        cells += _rounded(row.difference, row.difference_interval)
        writer.writerow(cells)
    return stream.getvalue()


def _rounded(value: float | None, interval: Interval) -> list[float | None]:
    low, high = interval or (None, None)
    return [None if number is None else round(number, 4) for number in (value, low, high)]


def comparison_figure(rows: Sequence[VariantScore], baseline: str) -> Figure:
    """Returns a panel per task: means (times 100) of its first metric at the most shots, intervals, and each seed."""
    panels = _panels(rows)
    names = list(dict.fromkeys(row.variant for row in rows))
    with style():
        width = 3.2 + 3.6 * len(panels)
        height = 1.3 + 0.34 * len(names)
        figure = new_figure(width, height)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            for row in panel:
                y = names.index(row.variant)
                _draw_row(ax, row, y, row.variant == baseline)
            first = panel[0]
            title = f"{first.task}, {first.shots} shots"
            ax.set_title(title, loc="left", fontweight="bold", fontsize=12)
            ax.set_xlabel(f"{metric_name(first.metric)} {TIMES_100}")
            ax.grid(axis="x")
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _draw_row(ax: Axes, row: VariantScore, y: int, is_baseline: bool) -> None:
    color = BLUE if is_baseline else GREY
    if is_baseline:
        ax.axvline(100 * row.mean, color=BLUE, lw=0.9, alpha=0.6, zorder=1)
    if row.interval is not None:
        low, high = row.interval
        ax.hlines(y, 100 * low, 100 * high, color=color, lw=2)
    values = [100 * value for value in row.values]
    ax.plot(values, [y] * len(values), "|", color=MUTED, ms=11, mew=1.2)
    ax.plot(100 * row.mean, y, "o", color=color, ms=7)
