"""Variants are compared with the baseline on the same queries, over trainings and over queries."""

import math

import numpy as np
import pytest

from flamingo.difference_rows import QUERIES_ALONE, TRAININGS
from flamingo.evaluation.run_differences import run_differences
from flamingo.evaluation.scores import scores
from flamingo.results import append_predictions, read_prediction_rows, save_scores
from flamingo.utils.errors import UserError
from flamingo.utils.seed_spread import student
from tests.helpers.result_rows import row

QUERIES = 50
OUTPUTS = ("a dog runs", "a cat sits", "two dogs run on grass", "a red ball", "the mat")


def prediction(query, value, shots=4, seed=0, control=None, **changes):
    fields = row(f"q{query}", shots, output=OUTPUTS[query % 5])
    return fields | {"seed": seed, "control": control, "scores": {"x": float(value)}} | changes


def values(level, noise_seed, noise=0.1):
    """Values of the queries whose mean is the level."""
    noises = np.random.default_rng(noise_seed).normal(size=QUERIES)
    return level + noise * (noises - noises.mean())


def write_run(folder, rows, metrics=()):
    folder.mkdir(parents=True)
    append_predictions(folder / "predictions.jsonl", rows)
    save_scores(folder / "scores.json", scores(rows, metrics))
    return folder


def rows_of(level, noise_seed, **setting):
    return [prediction(query, value, **setting) for query, value in enumerate(values(level, noise_seed))]


@pytest.fixture
def runs(tmp_path):
    """Two trainings of each of three variants, evaluated with two seeds, whose scores lie 0.1 apart."""
    folders = {}
    levels = {"a": (0.5, 0.52), "base": (0.3, 0.38), "b": (0.3, 0.34)}
    for variant, of_seeds in levels.items():
        folders[variant] = {}
        for seed, level in enumerate(of_seeds):
            rows = []
            for evaluation_seed in (0, 1):
                shift = (0.2 if variant == "a" else 0.1) * (evaluation_seed - 0.5)
                noise_seed = 10 * seed + evaluation_seed + 100 * len(folders)
                rows += rows_of(level + shift, noise_seed, seed=evaluation_seed)
            rows += rows_of(0.9, 1, control="blind")
            folders[variant][seed] = write_run(tmp_path / f"{variant}{seed}", rows)
    return folders


def test_a_metric_that_predictions_do_not_have_is_passed_over(tmp_path):
    runs = {}
    for variant, level in (("base", 0.3), ("a", 0.5)):
        rows = rows_of(level, 1)
        folder = write_run(tmp_path / variant, rows)
        of_rankings = scores(rows, ())[0] | {"metric": "roc_auc", "value": 0.7}
        save_scores(folder / "scores.json", scores(rows, ()) + [of_rankings])
        runs[variant] = {0: folder}
    [found] = run_differences(runs, "base")
    assert (found.metric, found.value) == ("x", pytest.approx(0.2))


def test_a_difference_of_means_has_a_spread_pooled_over_variants(runs):
    rows = run_differences(runs, "base")
    assert [(found.variant, found.baseline, found.setting.control) for found in rows] == [
        ("a", "base", None),
        ("b", "base", None),
        ("a", "base", "blind"),
        ("b", "base", "blind"),
    ]
    first, second, *controls = rows
    assert [(control.value, control.p, control.mark) for control in controls] == [(0, None, "undecided")] * 2
    assert (first.value, second.value) == (pytest.approx(0.17), pytest.approx(-0.02))
    assert first.metric == "x" and first.kind == "baseline" and first.shots == (4, 4)
    assert first.level == TRAININGS and first.seeds == (0, 1) and first.n == QUERIES
    # Squares 2 * 0.01 ** 2, 2 * 0.04 ** 2 and 2 * 0.02 ** 2, of 3 degrees of freedom; 1 / 2 + 1 / 2 trainings.
    of_seeds = 2 * (0.01**2 + 0.04**2 + 0.02**2) / 3
    of_queries = 2 * 0.1**2 / 4 / QUERIES  # the mean of four independent noises, on both sides
    total = of_seeds + of_queries
    half = (first.over_seeds[1] - first.over_seeds[0]) / 2
    assert half / student(first.degrees_of_freedom) == pytest.approx(math.sqrt(total), rel=0.08)
    assert 3 < first.degrees_of_freedom < 4
    assert first.adjusted_p == pytest.approx(2 * first.p) and second.mark == "undecided"


def test_controls_are_a_family_of_their_own(tmp_path):
    """Holm doubles the p of each of two controls, and keeps that of the single plain setting."""
    folders = {}
    for number, variant in enumerate(("base", "other")):
        rows = rows_of(0.5 + 0.02 * number, number)
        rows += rows_of(0.5 + 0.03 * number, 2 + number, control="blind")
        rows += rows_of(0.5 + 0.03 * number, 4 + number, control="shuffled_images")
        folders[variant] = {0: write_run(tmp_path / variant, rows)}
    plain, *controls = run_differences(folders, "base")
    assert plain.setting.control is None and plain.adjusted_p == plain.p < 1
    smallest = min(controls, key=lambda control: control.p)
    assert smallest.adjusted_p == pytest.approx(min(1, 2 * smallest.p)) and smallest.p < 0.5


def test_one_training_a_variant_has_an_interval_over_queries(runs):
    rows = run_differences({name: {0: by_seed[0]} for name, by_seed in runs.items()}, "base")
    assert {found.level for found in rows} == {QUERIES_ALONE}
    assert rows[0].value == pytest.approx(0.2) and rows[0].interval == rows[0].bca and rows[0].seeds == (0,)
    assert rows[0].mark == "real"


def test_queries_may_stand_in_another_order(runs, tmp_path):
    lines = (runs["a"][0] / "predictions.jsonl").read_text().splitlines(keepends=True)
    before = run_differences(runs, "base")
    (runs["a"][0] / "predictions.jsonl").write_text("".join(reversed(lines)))
    assert run_differences(runs, "base") == before


def changed_run(tmp_path, change):
    rows = rows_of(0.5, 3)
    change(rows)
    return write_run(tmp_path / "changed", rows)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda rows: rows.pop(7), r"changed lacks the query 'q7' of t, which .*base0"),
        (lambda rows: rows.append(prediction(99, 0.5)), r"changed has the query 'q99' of t, which .*base0"),
        (lambda rows: rows[7].update(query="else"), r"changed lacks the query 'q7'"),
        (lambda rows: [rows[i].update(references=["dog"]) for i in (9, 8)], r"'q8' of t are \['dog'\] in .*changed"),
    ],
)
def test_runs_with_other_queries_or_references_are_refused(runs, tmp_path, change, names):
    folder = changed_run(tmp_path, change)
    with pytest.raises(UserError, match=names):
        run_differences({"base": runs["base"], "other": {0: folder}}, "base")


def test_a_setting_that_the_baseline_lacks_has_no_row(runs, tmp_path):
    folder = write_run(tmp_path / "more", rows_of(0.5, 3) + rows_of(0.6, 4, shots=8))
    rows = run_differences({"base": runs["base"], "other": {0: folder}}, "base")
    assert [found.setting.shots for found in rows] == [4]


def test_runs_are_compared_by_a_metric_that_all_have(tmp_path):
    references = [OUTPUTS[query % 5] for query in range(QUERIES)]
    folders = {}
    for number, variant in enumerate(("base", "other")):
        rows = rows_of(0.5, number)
        for query, made in enumerate(rows):
            made["references"] = [references[query]]
            if variant == "other" and query % 3 == 0:
                made["output"] = "the mat"
        folders[variant] = {0: write_run(tmp_path / variant, rows, ("CIDEr", "BLEU-4"))}
    [found] = run_differences(folders, "base")
    values_of = {}
    for variant, by_seed in folders.items():
        rows = scores(read_prediction_rows(by_seed[0] / "predictions.jsonl"), ("CIDEr",))
        values_of[variant] = next(made["value"] for made in rows if made["metric"] == "CIDEr")
    assert found.metric == "CIDEr" and found.value == pytest.approx(values_of["other"] - values_of["base"])
    assert found.value < -0.5 and found.mark == "real"
    file = folders["other"][0] / "scores.json"
    file.write_text(file.read_text().replace('"language": "en"', '"language": "de"'))
    with pytest.raises(UserError, match=r"language of t is de in .*other and en in .*base"):
        run_differences(folders, "base")
