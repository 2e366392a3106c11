"""Scores -> a table of plain text for a log."""

from collections.abc import Sequence

from flamingo.report.averages import in_order, mean_over_seeds
from flamingo.report.curves import headline_metrics, metric_name
from flamingo.report.page_tables import demonstrations_text
from flamingo.report.score_text import interval_text, score_text
from flamingo.results import Score, SettingOfTask

#: The space between two columns.
_GAP = "  "


def score_table(scores: Sequence[Score], task: str) -> str:
    """Returns the scores of a task: a row for each setting, with means over its seeds, and a column for each metric.

    Headline metrics have their 95% intervals.
    """
    means = in_order(score for score in mean_over_seeds(scores) if score.setting.task == task)
    headlines = headline_metrics(means, task)
    others = dict.fromkeys(score.metric for score in means if score.metric not in headlines)
    metrics = headlines + list(others)
    scores_of: dict[SettingOfTask, dict[str, Score]] = {}
    for score in means:
        scores_of.setdefault(score.setting, {})[score.metric] = score
    rows = [["shots", "demonstrations", "control", "decoding"] + [metric_name(metric) for metric in metrics]]
    for setting, of_setting in scores_of.items():
        row = _names(setting)
        for metric in metrics:
            row.append(_cell(of_setting.get(metric), metric in headlines))
        rows.append(row)
    return aligned(rows)


def _names(setting: SettingOfTask) -> list[str]:
    return [str(setting.shots), demonstrations_text(setting), setting.control_name or "-", setting.decoding]


def _cell(score: Score | None, with_interval: bool) -> str:
    if score is None:
        return "-"
    text = score_text(score.value)
    if score.ci95 is None or not with_interval:
        return text
    return f"{text} ({interval_text(score.ci95)})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows as lines of text whose columns begin at the same places, below one another."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)
