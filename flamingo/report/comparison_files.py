"""A comparison of many runs as files: Markdown, CSV, a page and a plot."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flamingo.difference_rows import Difference, differences_text
from flamingo.report.comparison import Interval, VariantScore, compare
from flamingo.report.comparison_figure import comparison_figure
from flamingo.report.comparison_tables import overviews, score_tables
from flamingo.report.difference_table import difference_tables
from flamingo.report.escaping import csv_cell
from flamingo.report.page import as_pictures, template
from flamingo.report.score_text import UNITS
from flamingo.report.settings_page import settings_page
from flamingo.report.style import png
from flamingo.report.variants import Variant
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


def write_comparison(
    variants: Sequence[Variant], problems: Mapping[str, str], differences: Sequence[Difference], output: Path
) -> list[Path]:
    """Writes ``output`` with the suffixes md, csv, html, png, differences.json and settings.html.

    Args:
        variants: The variants, of which the first is the baseline.
        problems: Folder or variant -> the reason why it is left out, missing or incomplete.
        differences: Paired differences of the variants to the baseline.
        output: The path without a suffix.

    Returns:
        The paths of the files.
    """
    baseline = variants[0].name
    rows = compare(variants, baseline)
    figure = comparison_figure(rows, baseline)
    plain = [difference for difference in differences if difference.setting.control is None]
    num_runs = sum(len(variant.runs) for variant in variants)
    content = {
        "title": f"{_counted(len(variants), 'variant')}, {_counted(num_runs, 'run')}",
        "baseline": baseline,
        "units": UNITS,
        "tables": overviews(rows) + score_tables(rows),
        "differences": difference_tables(plain),
        "problems": problems,
        "plots": as_pictures(figure),
    }
    files = {
        "md": template("comparison.md").render(content).encode(),
        "csv": _csv(rows).encode(),
        "html": template("comparison.html").render(content).encode(),
        "png": png(figure),
        "differences.json": differences_text(differences).encode(),
        "settings.html": settings_page(variants, problems, differences).encode(),
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
