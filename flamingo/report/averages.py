"""Scores and measures of several seeds -> their means; the order of settings, and the decoding that is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

from flamingo.measure_rows import Measure
from flamingo.results import Prediction, Score, SettingOfTask
from flamingo.row_fields import Interval

Item = TypeVar("Item", Score, Prediction, Measure)


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
    return replace(
        group[0],
        seeds=tuple(sorted(seeds)),
        value=fmean(score.value for score in group),
        ci95=_mean_interval([score.ci95 for score in group]),
        n=min(score.n for score in group),
    )


def mean_measures(measures: Iterable[Measure]) -> list[Measure]:
    """Returns one measure per setting, name, distance, layer and part, averaged as :func:`mean_over_seeds` does.

    The seed is that of the first.
    """
    groups: dict[tuple[object, ...], list[Measure]] = {}
    for measure in measures:
        identity = (measure.setting, measure.name, measure.distance, measure.layer, measure.part)
        groups.setdefault(identity, []).append(measure)
    means = []
    for group in groups.values():
        mean = replace(
            group[0],
            value=fmean(measure.value for measure in group),
            ci95=_mean_interval([measure.ci95 for measure in group]),
            n=min(measure.n for measure in group),
        )
        means.append(mean)
    return means


def _mean_interval(intervals: Sequence[Interval]) -> Interval:
    """Returns the means of the ends; None if an interval is missing."""
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    return fmean(low for low, _ in known), fmean(high for _, high in known)


def main_decoding(decodings: Iterable[str]) -> str:
    """Returns the decoding that curves and examples show: greedy if it was run."""
    names = sorted(set(decodings))
    return "greedy" if "greedy" in names else names[0]


def in_order(items: Iterable[Item]) -> list[Item]:
    """Returns items by their settings: plain ones, then controls in the order of their appearance.

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
