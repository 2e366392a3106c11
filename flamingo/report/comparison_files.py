"""A comparison of many runs as files: Markdown, CSV, a page and a plot."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flamingo.report.comparison import Interval, VariantScore, compare
from flamingo.report.comparison_figure import comparison_figure
from flamingo.report.comparison_tables import overviews, score_tables
from flamingo.report.escaping import csv_cell
from flamingo.report.page import as_pictures, template
from flamingo.report.score_text import UNITS
from flamingo.report.style import png
from flamingo.report.variants import read_runs
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_bytes

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


def write_comparison(folders: Sequence[Path], output: Path, baseline: str | None = None) -> list[Path]:
    """Writes ``output`` with the suffixes ``.md``, ``.csv``, ``.html`` and ``.png``.

    Args:
        folders: The folders of the runs.
        output: The path without a suffix.
        baseline: The name of the variant that comes first; None: the one called "baseline", otherwise the first.

    Returns:
        The paths of the files.

    Raises:
        UserError: If no run is finished and evaluated, or the baseline is unknown; nothing is written then.
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
        "title": f"{_counted(len(names), 'variant')}, {_counted(num_runs, 'run')}",
        "baseline": baseline,
        "units": UNITS,
        "tables": overviews(rows) + score_tables(rows),
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


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _csv(rows: Sequence[VariantScore]) -> str:
    """Returns the CSV, with values in the metrics' units. Unknown ones are empty."""
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
