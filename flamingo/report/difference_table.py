"""Differences with intervals and marks -> the rows of a page's table, and a table of plain text for a log."""

from collections.abc import Sequence

from flamingo.difference_rows import BASELINE, ICL_EFFICIENCY, SLOPE, Difference
from flamingo.report.cards import setting_name
from flamingo.report.curves import metric_name
from flamingo.report.page_tables import seeds_text
from flamingo.report.score_table import aligned
from flamingo.report.score_text import difference_text, interval_text
from flamingo.report.table import LONG, MEDIUM, NO_VALUE, SHORT, Cell, Column, Row, Table
from flamingo.results import SettingOfTask

_MINUS = "\N{MINUS SIGN}"
_COLUMNS = (
    Column("compared", LONG),
    Column("difference"),
    Column("95% interval"),
    Column("adjusted p"),
    Column("mark", SHORT),
    Column("interval over", MEDIUM),
    Column("queries"),
    Column("seeds"),
)
_NOTE = (
    "Differences are paired: all scores are of the same queries. Intervals are 95% BCa bootstrap intervals over "
    "queries, or Student's intervals over queries and seeds where there are several seeds; they are not adjusted for "
    "the number of comparisons. p is adjusted by Holm's method for all comparisons of the table. Real: adjusted p "
    "below 0.05. Absent: not real, and the interval lies within ±{margin}. Undecided: neither. There is no "
    "interval where fewer than 30 queries have a value, or all paired differences are equal."
)


def note(differences: Sequence[Difference]) -> str:
    """Returns the explanation of the table."""
    return _NOTE.format(margin=f"{differences[0].margin:g}")


def _row(difference: Difference) -> Row:
    """Returns a row. Intervals and seeds are sorted by their lower ends."""
    low = None if difference.interval is None else difference.interval[0]
    cells = (
        Cell(compared(difference)),
        Cell(difference_text(difference.value), value=difference.value),
        Cell(interval_text(difference.interval) or NO_VALUE, value=low),
        Cell(_p_text(difference.adjusted_p), value=difference.adjusted_p),
        Cell(difference.mark or NO_VALUE),
        Cell(difference.level if difference.over_seeds is None else f"queries, {difference.level}"),
        Cell(str(difference.n), value=difference.n),
        Cell(seeds_text(difference.seeds), value=min(difference.seeds)),
    )
    return Row(cells)


def difference_table(differences: Sequence[Difference]) -> str:
    """Returns the differences of a task as a table of plain text."""
    rows = [[column.name for column in _COLUMNS]]
    for difference in differences:
        texts = [cell.text for cell in _row(difference).cells]
        rows.append(["-" if text == NO_VALUE else text for text in texts])
    return aligned(rows)


def compared(difference: Difference) -> str:
    """Returns the name of a comparison, such as ``8 shots − 0 shots``."""
    setting = _name(difference.setting)
    if difference.kind == SLOPE:
        series = _with_series(difference.setting)
        return f"slope per doubling, {difference.shots[0]} to {difference.shots[-1]} shots{series}"
    if difference.kind == ICL_EFFICIENCY:
        return f"ICL efficiency, 0 to {difference.shots[-1]} shots{_with_series(difference.setting)}"
    if difference.kind == BASELINE:
        return f"{difference.variant} {_MINUS} {difference.baseline} at {setting}"
    assert difference.subtracted is not None
    return f"{setting} {_MINUS} {_name(difference.subtracted)}"


def by_task(differences: Sequence[Difference]) -> list[list[Difference]]:
    """Returns the differences of each task."""
    tasks: dict[str, list[Difference]] = {}
    for difference in differences:
        tasks.setdefault(difference.setting.task, []).append(difference)
    return list(tasks.values())


def table_title(differences: Sequence[Difference]) -> str:
    """Returns the task of the differences with their metric."""
    first = differences[0]
    return f"{first.setting.task}: {metric_name(first.metric)}"


def difference_tables(differences: Sequence[Difference]) -> list[Table]:
    """Returns a table for each task."""
    tables = []
    for of_task in by_task(differences):
        rows = tuple(_row(difference) for difference in of_task)
        tables.append(Table(table_title(of_task), _COLUMNS, rows, note(of_task)))
    return tables


def _p_text(p: float | None) -> str:
    if p is None:
        return NO_VALUE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _name(setting: SettingOfTask) -> str:
    name = setting_name(setting)
    return name if setting.decoding == "greedy" else f"{name}, {setting.decoding}"


def _with_series(setting: SettingOfTask) -> str:
    names = [setting.series]
    if setting.decoding != "greedy":
        names.append(setting.decoding)
    return "".join(f", {name}" for name in names if name)
