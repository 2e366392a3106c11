"""Scores of the settings of a task -> their comparisons, and the rows of ``differences.json``.

Each setting without control is compared with 0 shots, with the next smaller number of shots and with its own controls.
One with the demonstrations of another data set is also compared with the same setting of the task's own support.
Each few-shot curve also has its slope per doubling of the shots, and its ICL efficiency: the area between the curve and
its 0-shot score, divided by the largest number of shots.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flamingo.difference_rows import (
    CONTROL,
    DRAWS,
    FEWER_SHOTS,
    ICL_EFFICIENCY,
    OWN_SUPPORT,
    QUERIES_ALONE,
    SLOPE,
    ZERO_SHOT,
    Difference,
)
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.evaluation.statistics import MARGIN, Resampled, Term, estimate, holm, mark, over_seeds, resample
from flamingo.results import SettingOfTask
from flamingo.utils.seed_spread import pooled_deviation

#: The columns of a setting's scores in the resamples, by seed.
Columns = Mapping[SettingOfTask, Mapping[int, int]]


@dataclass(frozen=True)
class Comparison:
    """A contrast of scores, with the fields of its row."""

    kind: str
    setting: SettingOfTask
    subtracted: SettingOfTask | None
    shots: tuple[int, ...]
    terms: tuple[Term, ...]
    seeds: tuple[int, ...]
    variant: str | None = None
    baseline: str | None = None


def setting_differences(statistics: Mapping[tuple[Any, ...], Statistic], metric: str) -> list[Difference]:
    """Returns the comparisons of the settings of a task, and the figures of its few-shot curves.

    p-values are adjusted for all comparisons. Over several seeds the spread of a score between seeds is pooled over the
    settings without control: the few seeds of a single setting would give almost no information.

    Args:
        statistics: The score of each setting, by its :func:`flamingo.results.setting_key`, of the same queries.
        metric: The metric of the scores.
    """
    if not statistics:
        return []
    columns: dict[SettingOfTask, dict[int, int]] = {}
    for column, key in enumerate(statistics):
        *fields, seed = key
        columns.setdefault(SettingOfTask(*fields), {})[seed] = column
    scores = resample(list(statistics.values()))
    comparisons = list(_comparisons(columns)) + list(_curves(columns))
    deviation, freedom = _deviation(columns, scores)
    rows = []
    for comparison in comparisons:
        rows.append(difference_row(comparison, scores, metric, deviation, freedom, DRAWS))
    return with_marks(rows)


def difference_row(
    comparison: Comparison, scores: Resampled, metric: str, deviation: float, freedom: int, level: str
) -> Difference:
    """Returns the row of a comparison, without its adjusted p-value and its mark.

    Args:
        comparison: The comparison.
        scores: The scores that its terms name by column.
        metric: The metric of the scores.
        deviation: The standard deviation of a score between seeds, pooled.
        freedom: Its degrees of freedom.
        level: The meaning of the seeds.
    """
    of_queries = estimate(scores, comparison.terms)
    of_seeds = over_seeds(of_queries, comparison.terms, deviation, freedom)
    return Difference(
        kind=comparison.kind,
        setting=comparison.setting,
        subtracted=comparison.subtracted,
        variant=comparison.variant,
        baseline=comparison.baseline,
        shots=comparison.shots,
        metric=metric,
        value=of_queries.value,
        percentile=of_queries.percentile,
        bca=of_queries.bca,
        over_seeds=None if of_seeds is None else of_seeds.interval,
        degrees_of_freedom=None if of_seeds is None else of_seeds.freedom,
        p=of_queries.p if of_seeds is None else of_seeds.p,
        adjusted_p=None,
        mark=None,
        margin=MARGIN,
        level=QUERIES_ALONE if of_seeds is None else level,
        seeds=comparison.seeds,
        n=of_queries.n,
    )


def with_marks(rows: Sequence[Difference]) -> list[Difference]:
    """Returns the rows with their marks, and with p-values that are adjusted for all comparisons among them.

    A comparison without a p-value is not a test and counts in no adjustment. Figures of curves are not tests either.
    """
    p_values = [row.p for row in rows if row.p is not None and _is_comparison(row)]
    adjusted_p_values = iter(holm(p_values))
    marked = []
    for row in rows:
        if _is_comparison(row):
            adjusted_p = None if row.p is None else next(adjusted_p_values)
            row = replace(row, adjusted_p=adjusted_p, mark=mark(row.interval, adjusted_p, row.margin))
        marked.append(row)
    return marked


def _is_comparison(row: Difference) -> bool:
    return row.kind not in (SLOPE, ICL_EFFICIENCY)


def _deviation(columns: Columns, scores: Resampled) -> tuple[float, int]:
    """Returns the standard deviation of a score between draws of demonstrations, and its degrees of freedom."""
    groups = []
    for setting, by_seed in columns.items():
        if setting.control is None and not _is_fixed(setting):
            groups.append([float(scores.observed[column]) for column in by_seed.values()])
    return pooled_deviation(groups)


def _is_fixed(setting: SettingOfTask) -> bool:
    """Returns whether another seed gives the same outputs: there are no demonstrations, and no token is sampled."""
    return setting.demonstrations is None and not setting.decoding.startswith("temperature")


def _comparisons(columns: Columns) -> Iterator[Comparison]:
    for setting in columns:
        if setting.control is not None:
            continue
        zero_shot = _zero_shot(setting)
        if zero_shot in columns and zero_shot != setting:
            yield _comparison(ZERO_SHOT, setting, zero_shot, columns)
        fewer = _fewer_shots(setting, columns)
        if fewer is not None:
            yield _comparison(FEWER_SHOTS, setting, fewer, columns)
        own_support = replace(setting, support=None)
        if own_support in columns and own_support != setting:
            yield _comparison(OWN_SUPPORT, setting, own_support, columns)
        for control in columns:
            if control.control is not None and replace(control, control=None) == setting:
                yield _comparison(CONTROL, setting, control, columns)


def _zero_shot(setting: SettingOfTask) -> SettingOfTask:
    return replace(setting, shots=0, demonstrations=None, support=None)


def _fewer_shots(setting: SettingOfTask, columns: Columns) -> SettingOfTask | None:
    """Returns the setting with the next smaller number of shots; None if that is 0, or if there is none."""
    smaller = []
    for other in columns:
        if other.shots < setting.shots and replace(other, shots=setting.shots) == setting:
            smaller.append(other)
    return max(smaller, key=lambda other: other.shots, default=None)


def _comparison(kind: str, setting: SettingOfTask, subtracted: SettingOfTask, columns: Columns) -> Comparison:
    terms = (_term(1.0, setting, columns), _term(-1.0, subtracted, columns))
    return Comparison(
        kind=kind,
        setting=setting,
        subtracted=subtracted,
        shots=(setting.shots, subtracted.shots),
        terms=terms,
        seeds=_seeds([setting, subtracted], columns),
    )


def _term(weight: float, setting: SettingOfTask, columns: Columns) -> Term:
    return Term(weight, tuple(columns[setting].values()), _is_fixed(setting))


def _seeds(settings: Sequence[SettingOfTask], columns: Columns) -> tuple[int, ...]:
    """Returns the seeds of all settings. Those of fixed settings count only if there are no others."""
    varying = [setting for setting in settings if not _is_fixed(setting)] or settings
    seeds: set[int] = set()
    for setting in varying:
        seeds.update(columns[setting])
    return tuple(sorted(seeds))


def _curves(columns: Columns) -> Iterator[Comparison]:
    """Yields the figures of each few-shot curve: one for each selection, support, template and decoding."""
    curves: dict[SettingOfTask, list[SettingOfTask]] = {}
    for setting in columns:
        if setting.control is None and setting.shots > 0:
            curves.setdefault(replace(setting, shots=0), []).append(setting)
    for curve in curves.values():
        curve.sort(key=lambda setting: setting.shots)
        shots = tuple(setting.shots for setting in curve)
        if len(curve) > 1:
            yield _figure(SLOPE, curve, slope_weights(shots), columns)
        zero_shot = _zero_shot(curve[-1])
        if zero_shot in columns:
            yield _figure(ICL_EFFICIENCY, [zero_shot] + curve, efficiency_weights((0,) + shots), columns)


def _figure(kind: str, curve: Sequence[SettingOfTask], weights: Sequence[float], columns: Columns) -> Comparison:
    terms = [_term(weight, setting, columns) for weight, setting in zip(weights, curve, strict=True)]
    return Comparison(
        kind=kind,
        setting=curve[-1],
        subtracted=None,
        shots=tuple(setting.shots for setting in curve),
        terms=tuple(terms),
        seeds=_seeds(curve, columns),
    )


def slope_weights(shots: Sequence[int]) -> list[float]:
    """Returns the weights of the scores in the least-squares slope over log2(shots): the gain per doubling."""
    doublings = [math.log2(number) for number in shots]
    middle = sum(doublings) / len(doublings)
    squares = sum((doubling - middle) ** 2 for doubling in doublings)
    return [(doubling - middle) / squares for doubling in doublings]


def efficiency_weights(shots: Sequence[int]) -> list[float]:
    """Returns the weights of the scores in the ICL efficiency.

    It is the area between the curve and its 0-shot score, by trapezoids over shots, divided by the largest number of
    shots.

    Args:
        shots: Numbers in increasing order, of which the first is 0.
    """
    largest = shots[-1]
    weights = [0.0] * len(shots)
    for number in range(1, len(shots)):
        width = (shots[number] - shots[number - 1]) / largest
        weights[number - 1] += width / 2
        weights[number] += width / 2
    weights[0] -= 1.0
    return weights
