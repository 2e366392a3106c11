"""Many runs -> scores: each variant's mean over its seeds, and its difference to the baseline, with intervals.

The standard deviation over seeds is assumed to be the same for all variants of one score, and is estimated from all of
them together: two seeds of one variant alone would give almost no information. Intervals are Student's, of 95%, over
new trainings on the same task. The intervals in each run's own ``scores.json`` are over samples of queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from flamingo.headline_metrics import HEADLINES
from flamingo.report.variants import ScoreKey, Variant
from flamingo.utils.seed_spread import pooled_deviation, student

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class VariantScore:
    """A score of one variant, in the metric's unit. Intervals are None if no variant has two seeds."""

    variant: str
    task: str
    shots: int
    metric: str
    mean: float
    interval: Interval
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    """One for each seed."""
    paper: float | None
    difference: float | None
    """To the baseline; None for itself."""
    difference_interval: Interval


def compare(variants: Sequence[Variant], baseline: str) -> list[VariantScore]:
    """Returns the rows of all scores, those of each score in the order of the variants."""
    keys: set[ScoreKey] = set()
    for variant in variants:
        for run in variant.runs:
            keys.update(run.scores)
    rows = []
    for key in sorted(keys, key=_key_order):
        rows += _compare_score(variants, baseline, key)
    return rows


def _key_order(key: ScoreKey) -> tuple[str, int, tuple[int, str]]:
    task, shots, metric = key
    return task, shots, metric_order(metric)


def _compare_score(variants: Sequence[Variant], baseline: str, key: ScoreKey) -> list[VariantScore]:
    values_of = {}
    for variant in variants:
        values_of[variant.name] = tuple(run.scores[key] for run in variant.runs if key in run.scores)
    deviation, freedom = pooled_deviation(list(values_of.values()))
    baseline_values = values_of[baseline]
    task, shots, metric = key
    rows = []
    for variant in variants:
        values = values_of[variant.name]
        if not values:
            continue  # the variant is listed as incomplete
        mean = fmean(values)
        interval = _interval(mean, deviation, freedom, 1 / len(values))
        difference = None
        difference_interval = None
        if baseline_values and variant.name != baseline:
            difference = mean - fmean(baseline_values)
            variance_share = 1 / len(values) + 1 / len(baseline_values)
            difference_interval = _interval(difference, deviation, freedom, variance_share)
        row = VariantScore(
            variant=variant.name,
            task=task,
            shots=shots,
            metric=metric,
            mean=mean,
            interval=interval,
            seeds=tuple(run.seed for run in variant.runs if key in run.scores),
            values=values,
            paper=variant.paper,
            difference=difference,
            difference_interval=difference_interval,
        )
        rows.append(row)
    return rows


def metric_order(metric: str) -> tuple[int, str]:
    """Returns a sort key that puts the most informative metrics first."""
    if metric in HEADLINES:
        return HEADLINES.index(metric), metric
    return len(HEADLINES), metric


def _interval(middle: float, deviation: float, freedom: int, variance_share: float) -> Interval:
    if freedom == 0:
        return None
    half = student(freedom) * deviation * math.sqrt(variance_share)
    return (middle - half, middle + half)
