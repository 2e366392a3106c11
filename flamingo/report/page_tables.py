"""The scores of a task -> tables that fit the width of a page."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flamingo.report.averages import in_order, mean_over_seeds
from flamingo.report.curves import metric_name
from flamingo.report.score_text import interval_text, score_text
from flamingo.report.table import MEDIUM, NO_VALUE, SHORT, Cell, Column, Row, Table
from flamingo.results import Score, SettingOfTask

#: The columns that name a setting.
SETTING_COLUMNS = (
    Column("shots"),
    Column("demonstrations", SHORT),
    Column("control", SHORT),
    Column("decoding", MEDIUM),
)
#: The largest number of metrics, with their intervals, in a table on a page of 1200 pixels.
_COLUMNS = 5


def task_tables(scores: Sequence[Score], task: str) -> list[Table]:
    """Returns tables with a row for each setting, the mean over its seeds, and a column for each metric.

    The metrics of few settings come last. A further table has only the settings with one of its metrics.
    """
    means = [score for score in mean_over_seeds(scores) if score.setting.task == task]
    counts = Counter(score.metric for score in means)
    metrics = [metric for metric, _ in counts.most_common()]
    scores_of: dict[SettingOfTask, dict[str, Score]] = {}
    for score in in_order(means):
        scores_of.setdefault(score.setting, {})[score.metric] = score
    tables = []
    for start in range(0, len(metrics), _COLUMNS):
        tables.append(_table(scores_of, metrics[start : start + _COLUMNS]))
    return tables


def _table(scores_of: Mapping[SettingOfTask, Mapping[str, Score]], metrics: Sequence[str]) -> Table:
    columns = SETTING_COLUMNS + tuple(Column(metric_name(metric)) for metric in metrics)
    columns += (Column("queries"), Column("seeds"))
    rows = []
    for setting, of_setting in scores_of.items():
        shown = {metric: of_setting[metric] for metric in metrics if metric in of_setting}
        if shown:
            rows.append(_row(setting, shown, metrics))
    return Table("", columns, tuple(rows))


def _row(setting: SettingOfTask, scores: Mapping[str, Score], metrics: Sequence[str]) -> Row:
    cells = setting_cells(setting)
    for metric in metrics:
        cells.append(score_cell(scores.get(metric)))
    # The spread over orders counts orders.
    counts = [score.n for score in scores.values() if not score.metric.endswith("_order_std")]
    seeds = max((score.seeds for score in scores.values()), key=len)
    cells.append(Cell(range_text(counts), value=min(counts, default=None)))
    cells.append(Cell(seeds_text(seeds), value=min(seeds)))
    return Row(tuple(cells), setting.control is not None)


def setting_cells(setting: SettingOfTask) -> list[Cell]:
    """Returns the cells of SETTING_COLUMNS."""
    return [
        Cell(str(setting.shots), value=setting.shots),
        Cell(demonstrations_text(setting)),
        Cell(setting.control_name),
        Cell(setting.decoding.replace(",", ", ")),
    ]


def score_cell(score: Score | None) -> Cell:
    """Returns the cell of a score with its interval. None was not computed."""
    if score is None:
        return Cell(NO_VALUE)
    return Cell(score_text(score.value), interval_text(score.ci95), score.value)


def demonstrations_text(setting: SettingOfTask) -> str:
    """Returns how demonstrations are chosen and from which support, and a template that is not the checkpoint's."""
    names = [setting.selection_name, setting.support_name, setting.template or ""]
    return ", ".join(name for name in names if name)


def range_text(counts: Iterable[int]) -> str:
    """Returns the smallest and the largest of some numbers."""
    numbers = sorted(set(counts))
    if not numbers:
        return ""
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{numbers[0]} to {numbers[-1]}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Returns the seeds, such as ``0, 1, 5``; three or more consecutive ones as ``0 to 7``."""
    seeds = sorted(seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return range_text(seeds)
    return ", ".join(str(seed) for seed in seeds)
