"""What is compared with what, the figures of few-shot curves, seeds, and the marks of a family of comparisons."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flamingo.difference_rows import DRAWS, QUERIES_ALONE
from flamingo.evaluation.comparisons import efficiency_weights, setting_differences, slope_weights, with_marks
from flamingo.evaluation.metrics.resampling import mean
from flamingo.utils.seed_spread import student


def key(shots, demonstrations="random", control=None, decoding="greedy", seed=0, support=None):
    return ("t", shots, demonstrations if shots or control else None, support, control, None, decoding, seed)


TEXT_ONLY = ("t", 0, "text_only", None, None, None, "greedy", 0)


def noisy(level, number=60, seed=0, noise=0.1):
    """Values whose mean is the level."""
    values = np.random.default_rng(seed).normal(size=number)
    values = noise * (values - values.mean())
    return mean((level + values).tolist())


def named(row):
    other = row.subtracted and (row.subtracted.shots, row.subtracted.demonstrations, row.subtracted.control)
    return row.kind, (row.setting.shots, row.setting.demonstrations), other


def test_settings_are_compared_with_fewer_shots_and_controls():
    keys = [key(0), TEXT_ONLY, key(8), key(2), key(4), key(4, "rices"), key(8, decoding="beam3")]
    keys += [key(8, control="blind"), key(4, "rices", "blind"), key(0, control="blind")]
    keys[-1] = ("t", 0, None, None, "blind", None, "greedy", 0)
    rows = setting_differences({k: noisy(0.5, seed=number) for number, k in enumerate(keys)}, "x")
    assert sorted(map(repr, map(named, rows))) == sorted(
        map(
            repr,
            [
                ("control", (0, None), (0, None, "blind")),
                ("zero_shot", (0, "text_only"), (0, None, None)),
                ("zero_shot", (2, "random"), (0, None, None)),
                ("zero_shot", (4, "random"), (0, None, None)),
                ("fewer_shots", (4, "random"), (2, "random", None)),
                ("zero_shot", (8, "random"), (0, None, None)),
                ("fewer_shots", (8, "random"), (4, "random", None)),
                ("control", (8, "random"), (8, "random", "blind")),
                ("zero_shot", (4, "rices"), (0, None, None)),
                ("control", (4, "rices"), (4, "rices", "blind")),
                ("slope", (8, "random"), None),
                ("icl_efficiency", (8, "random"), None),
                ("icl_efficiency", (4, "rices"), None),
            ],
        )
    )
    slope = next(row for row in rows if row.kind == "slope")
    assert slope.shots == (2, 4, 8)
    efficiency = next(row for row in rows if row.kind == "icl_efficiency")
    assert efficiency.shots == (0, 2, 4, 8)
    assert {row.metric for row in rows} == {"x"} and {row.setting.task for row in rows} == {"t"}


def test_another_support_is_compared_with_the_own_one():
    levels = {key(0): 0.1, key(2): 0.3, key(4): 0.4, key(2, support="other"): 0.2, key(4, support="other"): 0.25}
    levels |= {key(4, "rices", support="other"): 0.2, key(4, control="blind", support="other"): 0.05}
    rows = setting_differences({k: noisy(v, seed=number) for number, (k, v) in enumerate(levels.items())}, "x")
    of_other = {}
    for row in rows:
        if row.setting.support == "other" and row.setting.demonstrations == "random":
            of_other[row.kind, row.setting.shots] = row
    values = {name: round(row.value, 6) for name, row in of_other.items()}
    assert values == {
        ("zero_shot", 2): 0.1,
        ("own_support", 2): -0.1,
        ("zero_shot", 4): 0.15,
        ("fewer_shots", 4): 0.05,
        ("own_support", 4): -0.15,
        ("control", 4): 0.2,
        ("slope", 4): 0.05,
        # Gains 0, 0.1, 0.15: areas 0.1 and 0.25 over 4 shots.
        ("icl_efficiency", 4): 0.0875,
    }
    own = of_other["own_support", 4]
    assert own.subtracted == replace(own.setting, support=None) and own.shots == (4, 4)
    # RICES has no setting with the own support. Rows of the own support are compared with no other one.
    assert [row.setting.support for row in rows if row.kind == "own_support"] == ["other", "other"]


def test_slope_and_icl_efficiency_by_hand():
    levels = {0: 0.1, 1: 0.3, 2: 0.2, 4: 0.2, 8: 0.5}
    rows = setting_differences({key(k): noisy(v, seed=k) for k, v in levels.items()}, "x")
    figures = {row.kind: row for row in rows if row.mark is None}
    # Doublings 0, 1, 2, 3 less their mean: (-1.5 * 0.3 - 0.5 * 0.2 + 0.5 * 0.2 + 1.5 * 0.5) / 5.
    assert figures["slope"].value == pytest.approx(0.06)
    # Gains 0, 0.2, 0.1, 0.1, 0.4: areas 0.1, 0.15, 0.2, 1.0 over 8 shots.
    assert figures["icl_efficiency"].value == pytest.approx(1.45 / 8)
    for row in figures.values():
        assert row.percentile[0] < row.value < row.percentile[1] and row.bca[0] < row.value < row.bca[1]
        assert row.adjusted_p is None


def test_weights_of_a_curve_with_uneven_shots():
    assert slope_weights([1, 4, 8]) == pytest.approx([-5 / 14, 1 / 14, 4 / 14])  # doublings 0, 2, 3
    assert efficiency_weights([0, 4]) == pytest.approx([-0.5, 0.5])
    assert efficiency_weights([0, 1, 4]) == pytest.approx([0.125 - 1, 0.5, 0.375])


def test_a_difference_is_the_setting_less_the_other():
    rows = setting_differences({key(0): noisy(0.2), key(4): noisy(0.5, seed=1)}, "x")
    gain = next(row for row in rows if row.kind == "zero_shot")
    assert gain.value == pytest.approx(0.3) and gain.mark == "real" and gain.interval == gain.bca
    assert gain.bca[0] < 0.3 < gain.bca[1] and gain.bca[1] - gain.bca[0] == pytest.approx(
        2 * 1.96 * 0.1 * math.sqrt(2 / 60), rel=0.25
    )
    assert (gain.level, gain.seeds, gain.n, gain.margin) == (QUERIES_ALONE, (0,), 60, 0.01)
    assert gain.over_seeds is None and gain.degrees_of_freedom is None and gain.shots == (4, 0)


def test_several_seeds_give_an_interval_over_draws():
    scores = {key(0): noisy(0.2)}
    levels = {(2, 0): 0.4, (2, 1): 0.44, (4, 0): 0.5, (4, 1): 0.6}
    for number, ((shots, seed), level) in enumerate(levels.items()):
        scores[key(shots, seed=seed)] = noisy(level, seed=number + 1)
    for seed, level in ((0, 0.1), (1, 0.4)):
        scores[key(4, control="blind", seed=seed)] = noisy(level, seed=9 + seed)
    scores[key(2, control="blind", seed=1)] = noisy(0.1, seed=11)
    rows = {(row.kind, row.setting.shots): row for row in setting_differences(scores, "x")}
    gain = rows["zero_shot", 4]
    assert gain.value == pytest.approx(0.35) and gain.seeds == (0, 1) and gain.level == DRAWS
    variance = (2 * 0.02**2 + 2 * 0.05**2) / 2  # pooled over 2 and 4 shots; controls do not count
    half = (gain.over_seeds[1] - gain.over_seeds[0]) / 2
    # The bootstrap variance of the mean over the seeds: of values with this variance, and of those at 0 shots.
    parts = [0.5 * (noisy(0, seed=3).parts[:, 0] + noisy(0, seed=4).parts[:, 0]) - noisy(0).parts[:, 0]]
    of_queries = np.var(parts[0]) / 60
    total = variance / 2 + of_queries
    freedom = total**2 / ((variance / 2) ** 2 / 2 + of_queries**2 / 59)
    assert gain.degrees_of_freedom == pytest.approx(freedom, rel=0.05)
    assert half == pytest.approx(student(freedom) * math.sqrt(total), rel=0.03)
    assert gain.interval == gain.over_seeds and gain.bca[1] - gain.bca[0] < half
    more = rows["fewer_shots", 4]
    assert more.value == pytest.approx(0.13) and more.degrees_of_freedom < gain.degrees_of_freedom
    control = rows["control", 2]  # two seeds less one
    assert control.value == pytest.approx(0.32) and control.level == DRAWS and control.seeds == (0, 1)
    assert rows["slope", 4].level == rows["icl_efficiency", 4].level == DRAWS


def test_one_seed_has_an_interval_over_queries_alone():
    scores = {key(0): noisy(0.2), key(4): noisy(0.5, seed=1)}
    scores |= {key(4, "rices", seed=seed): noisy(0.5 + seed / 10, seed=2 + seed) for seed in (0, 1)}
    rows = {(row.kind, row.setting.demonstrations): row for row in setting_differences(scores, "x")}
    assert rows["zero_shot", "random"].level == QUERIES_ALONE and rows["zero_shot", "rices"].level == DRAWS


def test_p_is_adjusted_for_all_comparisons_that_are_tests():
    scores = {key(0): noisy(0.2)}
    for shots, level in ((1, 0.2), (2, 0.2001), (4, 0.9)):
        scores[key(shots)] = noisy(level, seed=shots, noise=0.01)
    scores[key(4, control="blind")] = scores[key(4)]
    rows = setting_differences(scores, "x")
    tested = [row for row in rows if row.adjusted_p is not None]
    # Three with 0 shots, two with fewer shots; the control's equals its setting, and figures of curves are no tests.
    assert len(tested) == 5 and len(rows) == 8
    smallest = min(tested, key=lambda row: row.p)
    assert smallest.p == 2 / 10_001 and smallest.adjusted_p == pytest.approx(10 / 10_001)
    control = next(row for row in rows if row.kind == "control")
    assert (control.value, control.bca, control.p, control.mark) == (0.0, None, None, "undecided")
    marks = {(row.kind, row.setting.shots): row.mark for row in tested}
    assert marks["zero_shot", 4] == marks["fewer_shots", 4] == "real"
    assert marks["fewer_shots", 2] == "absent"
    again = with_marks([replace(row, adjusted_p=None, mark=None) for row in rows])
    assert again == rows


def test_marks_over_seeds_rest_on_the_interval_over_seeds():
    scores = {key(0): noisy(0.2, noise=0.01)}
    scores |= {key(4, seed=seed): noisy(level, seed=seed + 1, noise=0.01) for seed, level in ((0, 0.1), (1, 0.5))}
    rows = setting_differences(scores, "x")
    gain = next(row for row in rows if row.kind == "zero_shot")
    assert gain.bca[0] > 0.05 and gain.over_seeds[0] < 0 and gain.mark == "undecided" and gain.p > 0.05


def test_nothing_is_compared_of_a_single_setting():
    assert setting_differences({key(0): noisy(0.2)}, "x") == []
    assert setting_differences({}, "x") == []
