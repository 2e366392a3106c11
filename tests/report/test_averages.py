"""Scores are averaged over seeds, and settings come in a fixed order."""

import json

import pytest

from flamingo.report.averages import in_order, main_decoding, mean_measures, mean_over_seeds
from flamingo.results import read_scores
from tests.helpers.measures import measure
from tests.report import fake


def scores(tmp_path, *rows):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(rows))
    return read_scores(path)


def test_seeds_are_averaged_with_the_ends_of_their_intervals(tmp_path):
    one = fake.score(seed=0, value=0.3, ci95=(0.2, 0.4), n=50)
    two = fake.score(seed=1, value=0.5, ci95=(0.45, 0.6), n=40)
    other = fake.score(seed=0, value=0.9, shots=8)
    mean, alone = mean_over_seeds(scores(tmp_path, one, other, two))
    assert mean.value == pytest.approx(0.4)
    assert mean.ci95 == pytest.approx((0.325, 0.5))
    assert (mean.seeds, mean.n) == ((0, 1), 40)
    assert (alone.value, alone.seeds, alone.setting.shots) == (0.9, (0,), 8)


def test_a_mean_has_no_interval_where_a_seed_has_none(tmp_path):
    rows = fake.score(seed=0, ci95=None), fake.score(seed=1)
    assert mean_over_seeds(scores(tmp_path, *rows))[0].ci95 is None


def test_measures_are_averaged_over_seeds_alone():
    one = measure(seed=0, value=0.3, ci95=(0.2, 0.4), n=50)
    two = measure(seed=1, value=0.5, ci95=(0.45, 0.6), n=40)
    changes = [{"name": "reference_rate"}, {"distance": 2}, {"layer": 1}, {"part": "ROUGE-L"}, {"shots": 8}]
    mean, *others = mean_measures([one, *(measure(**change) for change in changes), two])
    assert mean.value == pytest.approx(0.4) and mean.ci95 == pytest.approx((0.325, 0.5)) and mean.n == 40
    assert others == [measure(**change) for change in changes]
    assert mean_measures([one, measure(seed=1, ci95=None)])[0].ci95 is None


def test_settings_that_differ_in_more_than_the_seed_stay_apart(tmp_path):
    changes = [{"task": "flickr8k"}, {"shots": 2}, {"demonstrations": "rices"}, {"control": "blind"}]
    changes += [{"decoding": "beam3"}, {"metric": "CIDEr"}, {"support": "coco"}]
    assert len(mean_over_seeds(scores(tmp_path, fake.score(), *(fake.score(**change) for change in changes)))) == 8


def test_plain_settings_come_before_controls_each_by_shots(tmp_path):
    found = scores(
        tmp_path,
        fake.score(control="blind", shots=8),
        fake.score(control="upside_down"),
        fake.score(control="blind", shots=4),
        fake.score(decoding="beam3", shots=1),
        fake.score(shots=8),
        fake.score(shots=0, demonstrations=None),
    )
    order = [(score.setting.control, score.setting.shots) for score in in_order(found)]
    assert order == [(None, 0), (None, 8), (None, 1), ("blind", 4), ("blind", 8), ("upside_down", 4)]


def test_greedy_is_the_main_decoding_where_it_was_run():
    assert main_decoding(["beam3", "greedy", "beam10"]) == "greedy"
    assert main_decoding(["beam5", "beam3"]) == "beam3"
