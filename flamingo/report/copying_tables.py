"""Copy rates of several models -> a table with a row for each setting and distance."""

from collections.abc import Mapping, Sequence

from flamingo.measure_rows import COPY_RATE, EXACT, Measure
from flamingo.report.averages import in_order, mean_measures
from flamingo.report.page_tables import SETTING_COLUMNS, setting_cells
from flamingo.report.score_text import interval_text, score_text
from flamingo.report.table import NO_VALUE, Cell, Column, Row, Table

_NOTE = (
    "The share of outputs that have the words of the demonstration at this distance from the query, with its 95% "
    "interval over queries. 1 is the last demonstration."
)


def copying_table(measures: Mapping[str, Sequence[Measure]], task: str) -> Table:
    """Returns the rates at which outputs have the words of a demonstration, in a column for each model.

    Args:
        measures: Model -> the measures of its runs.
        task: The task.
    """
    rates = {}
    of_task: list[Measure] = []
    for model, of_model in measures.items():
        chosen = [row for row in of_model if (row.setting.task, row.name, row.part) == (task, COPY_RATE, EXACT)]
        for mean in mean_measures(chosen):
            rates[mean.setting, mean.distance, model] = mean
            of_task.append(mean)
    places = dict.fromkeys((mean.setting, mean.distance) for mean in in_order(of_task))
    rows = []
    for setting, distance in places:
        cells = [*setting_cells(setting), Cell(str(distance), value=distance)]
        for model in measures:
            cells.append(_cell(rates.get((setting, distance, model))))
        rows.append(Row(tuple(cells), setting.control is not None))
    columns = (*SETTING_COLUMNS, Column("distance"), *map(Column, measures))
    return Table("copy rate", columns, tuple(rows), _NOTE)


def _cell(rate: Measure | None) -> Cell:
    if rate is None:
        return Cell(NO_VALUE)
    return Cell(score_text(rate.value), interval_text(rate.ci95), rate.value)
