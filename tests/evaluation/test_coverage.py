"""Simulations: intervals cover the truth as often as they say, and planted gains have the marks that they should."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from flamingo.evaluation.comparisons import setting_differences
from flamingo.evaluation.metrics.captions import Cider
from flamingo.evaluation.metrics.corpus import Captions
from flamingo.evaluation.metrics.resampling import Statistic, mean
from flamingo.evaluation.statistics import Term, estimate, over_seeds, resample
from flamingo.utils.seed_spread import pooled_deviation

POOL = 100_000
QUERIES = 500
TRIALS = 2_000
#: Trials whose scores are resampled at once.
BATCH = 50

COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "grey")
THINGS = ("dog", "cat", "boy", "girl", "man", "woman", "horse", "bird", "car", "boat", "ball", "bike")
ACTS = ("runs", "sits", "jumps", "stands", "plays", "waits", "sleeps", "turns")
PLACES = ("grass", "sand", "snow", "street", "water", "wall", "bridge", "field", "table", "roof")


@dataclass
class Coverage:
    """How often each interval held the truth."""

    percentile: int = 0
    bca: int = 0

    def add(self, found, truth):
        self.percentile += found.percentile[0] <= truth <= found.percentile[1]
        self.bca += found.bca[0] <= truth <= found.bca[1]


def drawn(pool: Statistic, queries: np.ndarray) -> Statistic:
    """The score of some queries of a pool."""
    return Statistic(pool.parts[queries], pool.of_sums, len(queries))


def coverage(pools: list[Statistic], weights: list[float], seed: int) -> Coverage:
    """The coverage of the pools' weighted sum, by samples with replacement."""
    truth = sum(weight * pool.value for weight, pool in zip(weights, pools))
    rng = np.random.default_rng(seed)
    found = Coverage()
    for _ in range(TRIALS // BATCH):
        samples = []
        for _ in range(BATCH):
            queries = rng.integers(POOL, size=QUERIES)
            samples += [drawn(pool, queries) for pool in pools]
        scores = resample(samples)
        for trial in range(BATCH):
            columns = range(trial * len(pools), (trial + 1) * len(pools))
            terms = [Term(weight, (column,)) for weight, column in zip(weights, columns)]
            found.add(estimate(scores, terms), truth)
    return found


def assert_covers(found: Coverage) -> None:
    print(f"percentile {found.percentile / TRIALS:.4f}, BCa {found.bca / TRIALS:.4f}")
    for hits in (found.percentile, found.bca):
        assert 0.93 <= hits / TRIALS <= 0.97


@pytest.mark.full
def test_intervals_of_a_mean_cover_it():
    # As skewed as scores of captions are: most are low, few are high.
    values = np.random.default_rng(0).gamma(0.5, size=POOL)
    assert_covers(coverage([mean(values.tolist())], [1.0], seed=1))


def caption(scene: np.ndarray) -> str:
    colour, thing, act, place = scene
    return f"a {COLOURS[colour]} {THINGS[thing]} {ACTS[act]} on the {PLACES[place]}"


def scenes(rng: np.random.Generator, truth: np.ndarray, noise: float) -> np.ndarray:
    """Scenes in which some attributes are replaced."""
    others = rng.integers([len(COLOURS), len(THINGS), len(ACTS), len(PLACES)], size=truth.shape)
    return np.where(rng.random(truth.shape) < noise, others, truth)


@pytest.mark.full
def test_intervals_of_a_cider_difference_cover_it():
    rng = np.random.default_rng(2)
    nothing = np.zeros((POOL, 4), dtype=int)
    truth = scenes(rng, nothing, 1.0)
    references = [[caption(scene), caption(other)] for scene, other in zip(truth, scenes(rng, truth, 0.2))]
    better = scenes(rng, truth, 0.4)
    worse = scenes(rng, better, 0.15)  # the same outputs but for some words
    pools = []
    for outputs in (better, worse):
        [scored] = Cider().statistics([Captions([caption(scene) for scene in outputs], references)])
        pools.append(scored["CIDEr"])
    assert pools[0].value > pools[1].value + 0.1
    assert_covers(coverage(pools, [1.0, -1.0], seed=3))


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / QUERIES


@pytest.mark.full
@pytest.mark.parametrize("num_seeds", [2, 5, 20])
def test_intervals_over_seeds_cover_the_difference(num_seeds):
    """Four variants, whose spread is pooled; both parts of the variance of a difference have the same size."""
    variants = 4
    rng = np.random.default_rng(num_seeds)
    noise = 0.4
    query_variance = 2 * noise**2 / QUERIES
    deviation = np.sqrt(query_variance * num_seeds / 2)
    truth = 0.05
    hits = 0
    for _ in range(TRIALS // BATCH):
        statistics = []
        spreads = []
        for _ in range(BATCH):
            seed_effects = rng.normal(scale=deviation, size=(variants, num_seeds))
            of_variants = noise * rng.normal(size=(variants, QUERIES)) + rng.normal(size=QUERIES)
            of_variants[0] += truth
            values = of_variants[:, None, :] + seed_effects[:, :, None]
            spreads.append(pooled_deviation(values.mean(axis=2).tolist()))
            statistics += [Statistic(row[:, None], mean_of_sums, QUERIES) for row in values[:2].reshape(-1, QUERIES)]
        scores = resample(statistics, num_resamples=1_000)
        for trial, spread in enumerate(spreads):
            columns = range(2 * num_seeds * trial, 2 * num_seeds * (trial + 1))
            terms = (Term(1.0, tuple(columns[:num_seeds])), Term(-1.0, tuple(columns[num_seeds:])))
            found = over_seeds(estimate(scores, terms), terms, *spread)
            hits += found.interval[0] <= truth <= found.interval[1]
    print(f"{num_seeds} seeds: {hits / TRIALS:.4f}")
    assert hits / TRIALS >= 0.93


@pytest.mark.full
def test_planted_gains_have_the_marks_that_they_should():
    """In each of 200 simulations 20 settings are compared with 0 shots; all settings of a mark are to have it at once.

    A fair test needs noise that lets each mark be right. The mark "absent" asks for an interval within 0.01 of 0: its
    half width of 1.96 standard errors and a deviation of 3 more must fit, so that the paired differences have a
    standard error of at most 0.002. These settings change few outputs. "Undecided" asks for an interval that is wider
    than the margin: a standard error of 0.008. "Real" has the same one: a gain of 0.05 is 6 standard errors.
    """
    simulations, queries = 200, 500
    planted = [(0.05, 0.008, "real")] * 5 + [(0.0, 0.002, "absent")] * 10 + [(0.005, 0.008, "undecided")] * 5
    rng = np.random.default_rng(0)
    right = Counter()
    for _ in range(simulations):
        zero_shot = rng.random(queries)
        scores = {("t", 0, None, None, None, None, "greedy", 0): mean(zero_shot.tolist())}
        for number, (gain, error, _) in enumerate(planted):
            differences = gain + error * np.sqrt(queries) * rng.normal(size=queries)
            key = ("t", 0, f"selection {number}", None, None, None, "greedy", 0)
            scores[key] = mean((zero_shot + differences).tolist())
        wrong = set()
        for row, (_, _, expected) in zip(setting_differences(scores, "x"), planted, strict=True):
            if row.mark != expected:
                wrong.add(expected)
        right.update({"real", "absent", "undecided"} - wrong)
        right["all"] += not wrong
    print(dict(right))
    assert min(right["real"], right["absent"], right["undecided"]) >= 0.9 * simulations
