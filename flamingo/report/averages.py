"""Scores of several seeds -> their means; the order of settings, and the decoding that is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

from flamingo.results import Prediction, Score, SettingOfTask

Item = TypeVar("Item", Score, Prediction)


def mean_over_seeds(scores: Iterable[Score]) -> list[Score]:
    """Returns one score per setting and metric: the mean of the values, and of the ends of the intervals.

    The mean of the ends is not an interval of the mean, but wider: the seeds share their queries, so that the queries'
    part of the variance does not shrink with more seeds.
    """
    groups: dict[tuple[SettingOfTask, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.setting, score.metric), []).append(score)
    return [_mean(group) for group in groups.values()]


def _mean(group: Sequence[Score]) -> Score:
    seeds: list[int] = []
    for score in group:
        seeds += score.seeds
    intervals = [score.ci95 for score in group if score.ci95 is not None]
    interval = None
    if len(intervals) == len(group):
        interval = (fmean(low for low, _ in intervals), fmean(high for _, high in intervals))
    return replace(
        group[0],
        seeds=tuple(sorted(seeds)),
        value=fmean(score.value for score in group),
        ci95=interval,
        n=min(score.n for score in group),
    )


def main_decoding(decodings: Iterable[str]) -> str:
    """Returns the decoding that curves and examples show: greedy if it was run."""
    names = sorted(set(decodings))
    return "greedy" if "greedy" in names else names[0]


def in_order(items: Iterable[Item]) -> list[Item]:
    """Returns scores or predictions by their settings: plain ones, then controls in the order of their appearance.

    Within each, greedy decoding comes first, and settings are sorted by series and shots.
    """
    items = list(items)
    controls: list[str | None] = [None]
    for item in items:
        if item.setting.control not in controls:
            controls.append(item.setting.control)

    def position(item: Item) -> tuple[object, ...]:
        setting = item.setting
        return (
            controls.index(setting.control),
            setting.decoding != "greedy",
            setting.decoding,
            setting.series,
            setting.shots,
        )

    return sorted(items, key=position)
