"""The scores of variants -> tables for Markdown and for a page: an overview, and a table for each score."""

from collections.abc import Iterable, Sequence

from flamingo.headline_metrics import HEADLINES
from flamingo.report.comparison import VariantScore, metric_order
from flamingo.report.curves import metric_name
from flamingo.report.page_tables import seeds_text
from flamingo.report.score_text import difference_text, interval_text, score_text
from flamingo.report.table import LONG, Cell, Column, Row, Table
from flamingo.report.variants import ScoreKey

#: The largest number of tasks in an overview on a page of 1200 pixels.
_TASKS = 3


def panels(rows: Sequence[VariantScore]) -> list[list[VariantScore]]:
    """Returns for each task the rows of its most informative metric at the most shots."""
    found = []
    for task in dict.fromkeys(row.task for row in rows):
        metric = _headline(rows, task)
        by_shots: dict[int, list[VariantScore]] = {}
        for row in rows:
            if row.task == task and row.metric == metric:
                by_shots.setdefault(row.shots, []).append(row)
        most_shots = max(by_shots)
        found.append(by_shots[most_shots])
    return found


def overviews(rows: Sequence[VariantScore]) -> list[Table]:
    """Returns tables with a row for each variant, and for each task its first metric and the difference."""
    all_panels = panels(rows)
    tables = []
    for start in range(0, len(all_panels), _TASKS):
        tables.append(_overview(rows, all_panels[start : start + _TASKS]))
    return tables


def _overview(rows: Sequence[VariantScore], shown: Sequence[Sequence[VariantScore]]) -> Table:
    names = []
    for panel in shown:
        names += [_title(panel[0].task, panel[0].shots, panel[0].metric), "difference"]
    lines = []
    for variant in dict.fromkeys(row.variant for row in rows):
        line = [Cell(variant)]
        for panel in shown:
            line += _overview_cells(panel, variant)
        lines.append(line)
    if has_counterparts(rows):
        names += ["paper \N{MULTIPLICATION SIGN} 100", "difference"]
        for line in lines:
            line += _paper_cells(rows, line[0].text)
    return Table("", _columns(names), tuple(Row(tuple(line)) for line in lines))


def _columns(names: Iterable[str]) -> tuple[Column, ...]:
    """Returns the column of the variant, and columns of numbers."""
    return (Column("variant", LONG), *map(Column, names))


def _overview_cells(panel: Sequence[VariantScore], variant: str) -> list[Cell]:
    for row in panel:
        if row.variant == variant:
            return [_mean(row), _difference(row)]
    return [Cell(""), Cell("")]


def has_counterparts(rows: Sequence[VariantScore]) -> bool:
    """Returns whether the paper has a figure to compare with the baseline's."""
    return any(row.paper is not None and row.difference is not None for row in rows)


def _paper_cells(rows: Sequence[VariantScore], variant: str) -> list[Cell]:
    """Returns the paper's figure of a variant, and its difference to the baseline's, times 100 as in the paper."""
    paper = next(row.paper for row in rows if row.variant == variant)
    baseline = next((row.paper for row in rows if row.difference is None), None)
    if paper is None:
        return [Cell(""), Cell("")]
    difference = Cell("")
    if baseline is not None and paper != baseline:
        difference = Cell(f"{paper - baseline:+.1f}", value=paper - baseline)
    return [Cell(f"{paper:g}", value=paper), difference]


def score_tables(rows: Sequence[VariantScore]) -> list[Table]:
    """Returns a table for each task, number of shots and headline metric. The CSV also has all other metrics."""
    rows_of: dict[ScoreKey, list[VariantScore]] = {}
    for row in rows:
        if row.metric in HEADLINES or row.metric == _headline(rows, row.task):
            key = (row.task, row.shots, row.metric)
            rows_of.setdefault(key, []).append(row)
    tables = []
    for key, table_rows in rows_of.items():
        columns = _columns(["mean", "difference", "each seed", "seeds"])
        tables.append(Table(_title(*key), columns, tuple(_row(row) for row in table_rows)))
    return tables


def _row(row: VariantScore) -> Row:
    """Returns the row of a variant. The cell of several seeds is sorted by the lowest one."""
    cells = (
        Cell(row.variant),
        _mean(row),
        _difference(row),
        Cell(", ".join(score_text(value) for value in row.values), value=min(row.values)),
        Cell(seeds_text(row.seeds), value=min(row.seeds)),
    )
    return Row(cells)


def _mean(row: VariantScore) -> Cell:
    return Cell(score_text(row.mean), interval_text(row.interval), row.mean)


def _difference(row: VariantScore) -> Cell:
    return Cell(difference_text(row.difference), interval_text(row.difference_interval), row.difference)


def _title(task: str, shots: int, metric: str) -> str:
    return f"{task}, {shots} shots: {metric_name(metric)}"


def _headline(rows: Sequence[VariantScore], task: str) -> str:
    """Returns the most informative metric of the task."""
    return min((row.metric for row in rows if row.task == task), key=metric_order)
