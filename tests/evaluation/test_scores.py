"""Predictions become rows of scores: one for each setting and metric."""

import json
import sys

import pytest

from flamingo.evaluation.scores import scores
from flamingo.results import read_scores
from flamingo.utils.errors import UserError
from tests.helpers.result_rows import row


def scored(query, order=0, shots=4, output="a dog", references=("a dog",), **values):
    return {**row(query, shots, order, output), "references": list(references), "scores": values}


def test_means_are_over_the_queries_that_a_metric_applies_to():
    predictions = [
        scored("a", x=1.0, y=0.0),
        scored("b", x=0.0),
        scored("c", x=0.5, y=1.0),
        scored("a", shots=8, x=0.25),
    ]
    rows = {(r["shots"], r["metric"]): r for r in scores(predictions, ())}
    assert {k: (r["value"], r["n"]) for k, r in rows.items()} == {
        (4, "x"): (0.5, 3),
        (4, "y"): (0.5, 2),
        (8, "x"): (0.25, 1),
    }
    assert rows[8, "x"]["ci95"] == [0.25, 0.25] and rows[4, "x"]["ci95"] == [0.0, 1.0]


def test_scores_are_of_order_0_and_the_deviation_is_of_all():
    predictions = [
        scored("a", 1, x=0.0, y=1.0), scored("b", 1, x=1.0),
        scored("a", 0, x=1.0, y=1.0), scored("b", 0, x=1.0),
        scored("a", 2, x=0.0), scored("b", 2, x=0.0),
    ]  # fmt: skip
    rows = {r["metric"]: r for r in scores(predictions, ())}
    assert rows["x"]["value"] == 1.0 and rows["x"]["n"] == 2
    assert rows["x_order_std"]["value"] == pytest.approx(0.5) and rows["x_order_std"]["n"] == 3  # of 1, 0.5, 0
    assert rows.keys() == {"x", "x_order_std", "y"}  # in order 2 no query has y


def test_corpus_metrics_are_of_the_outputs_of_one_setting():
    predictions = [
        scored("a", output="a dog runs on grass", references=["a dog runs on grass"]),
        scored("b", output="two cats sit on a mat", references=["nothing of that"]),
        scored("a", shots=8, output="two cats", references=["a dog"]),
        scored("b", shots=8, output="two cats", references=["two cats"]),
    ]
    rows = {(r["shots"], r["metric"]): r["value"] for r in scores(predictions, ("BLEU-1", "CIDEr"))}
    assert rows[4, "BLEU-1"] == pytest.approx(5 / 11) and rows[8, "BLEU-1"] == pytest.approx(2 / 4)
    assert rows[4, "CIDEr"] == pytest.approx(5.0)  # 10 for the one that is right, 0 for the other
    assert rows.keys() == {(shots, metric) for shots in (4, 8) for metric in ("BLEU-1", "CIDEr")}


def test_a_metric_has_one_meaning():
    with pytest.raises(ValueError, match="CIDEr"):
        scores([scored("a", CIDEr=1.0)], ("CIDEr",))


def test_rows_of_corpus_metrics_say_what_they_were_computed_with(tmp_path):
    predictions = [
        scored("a", order, output="a dog runs", references=["a dog runs", "dogs"], x=1.0) for order in (0, 1)
    ] + [scored("b", order, output="two cats", references=["a cat"], x=0.0) for order in (0, 1)]
    rows = scores(predictions, ("CIDEr", "BLEU-1"))
    about = {
        row["metric"]: {field: row[field] for field in ("references", "language", "document_frequency") if field in row}
        for row in rows
    }
    assert about["x"] == about["x_order_std"] == {}
    assert about["BLEU-1"] == about["BLEU-1_order_std"] == {"references": [1, 2], "language": "en"}
    assert about["CIDEr"] == about["CIDEr_order_std"] and about["CIDEr"]["references"] == [1, 2]
    frequency = about["CIDEr"]["document_frequency"]
    assert (frequency["images"], frequency["captions"]) == (2, 3)
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    assert [score.metric for score in read_scores(tmp_path / "scores.json")] == [row["metric"] for row in rows]


@pytest.fixture
def java(monkeypatch, tmp_path):
    """A command called java that counts its starts and answers every line by its number of letters a and words."""
    program = tmp_path / "java"
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"with open({str(tmp_path / 'starts')!r}, 'a') as starts: starts.write('start ')\n"
        "for line in sys.stdin:\n"
        "    print(*[line.count('a') + 1, len(line.split())] + [1] * 21)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_java_starts_once_for_all_settings_and_orders(java):
    captions = ["a dog", "cats", "a ball and a mat", "", "a a a"]
    predictions = [
        scored(query, order, shots, output=captions[(shots + order + len(query)) % 5], references=[f"a {query}", "dog"])
        for shots in (0, 4, 8)
        for order in ((0, 1) if shots else (0,))
        for query in ("q", "qq", "qqq")
    ]
    together = scores(predictions, ("METEOR", "BLEU-1"))
    assert (java / "starts").read_text().split() == ["start"]
    alone = [
        row
        for shots in (0, 4, 8)
        for row in scores([p for p in predictions if p["shots"] == shots], ("METEOR", "BLEU-1"))
    ]
    assert together == alone
    assert len({row["value"] for row in together if row["metric"] == "METEOR"}) == 3


def test_spice_runs_once_for_all_settings_and_orders(monkeypatch):
    calls = []

    class Spice:
        def compute_score(self, right, said):
            calls.append(said)
            return 0.0, [{"All": {"f": float(len(said[place][0]) + len(right[place]))}} for place in said]

    monkeypatch.setattr("flamingo.evaluation.metrics.captions._spice_unavailable", lambda: None)
    monkeypatch.setattr("pycocoevalcap.spice.spice.Spice", Spice)
    predictions = [scored(q, shots=s, output=q * s, references=["r"] * s) for s in (1, 2, 3) for q in ("a", "bb")]
    rows = scores(predictions, ("SPICE",))
    assert [(row["shots"], row["value"]) for row in rows] == [(1, 2.5), (2, 5.0), (3, 7.5)]
    assert len(calls) == 1


def test_a_metric_that_cannot_be_computed_is_left_out_and_logged(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    predictions = [scored("a", shots=shots, output="a dog") for shots in (0, 4, 8)]
    rows = scores(predictions, ("METEOR", "ROUGE-L"))
    assert [(row["metric"], row["value"]) for row in rows] == [("ROUGE-L", 1.0)] * 3
    assert caplog.messages == ["METEOR is left out: there is no java"]
    with pytest.raises(UserError, match="'meteor'"):
        scores(predictions, ("meteor",))
