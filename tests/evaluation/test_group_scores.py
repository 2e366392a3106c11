"""Corpus metrics of groups of queries: each is scored as a data set of its own."""

import pytest

from flamingo.evaluation.scores import scores, setting_statistics
from flamingo.evaluation.statistics import resample
from tests.helpers.captions import OUTPUTS, REFERENCES
from tests.helpers.result_rows import row

GROUPS = ("in-domain", "out-domain", "in-domain", "out-domain", "in-domain")


def predictions(numbers=range(5), groups=GROUPS):
    rows = []
    for number in numbers:
        prediction = row(f"q{number}", 0, 0, OUTPUTS[number]) | {"references": REFERENCES[number], "scores": {}}
        if groups is not None:
            prediction["group"] = groups[number]
        rows.append(prediction)
    return rows


def by_metric(rows):
    return {row["metric"]: row for row in rows}


def test_a_group_is_scored_as_if_it_were_the_whole_data_set():
    metrics = ("CIDEr", "BLEU-1", "ROUGE-L")
    everything = by_metric(scores(predictions(), metrics))
    assert list(everything)[:3] == list(metrics)  # the headline metric is that of all queries
    assert len(everything) == 9
    for group, numbers in (("in_domain", (0, 2, 4)), ("out_domain", (1, 3))):
        alone = by_metric(scores(predictions(numbers, None), metrics))
        for metric in metrics:
            of_group = everything[f"{metric}_{group}"]
            assert of_group["value"] == pytest.approx(alone[metric]["value"])
            assert of_group["n"] == len(numbers)
        assert everything[f"CIDEr_{group}"]["document_frequency"] == alone["CIDEr"]["document_frequency"]


def test_all_queries_are_scored_as_without_groups():
    without = scores(predictions(groups=None), ("CIDEr", "BLEU-1"))
    assert scores(predictions(), ("CIDEr", "BLEU-1"))[:2] == without


def test_groups_share_the_resamples_of_all_queries():
    """Only resamples of all queries can be compared between settings."""
    [[statistics]] = setting_statistics(predictions(), ("BLEU-1",)).values()
    resampled = resample(list(statistics.values()), num_resamples=50)
    assert resampled.has_value.sum(axis=0).tolist() == [5, 3, 2]
    assert resampled.observed[1] == pytest.approx(statistics["BLEU-1_in_domain"].value)


def test_queries_without_a_group_are_in_none():
    rows = predictions()
    del rows[3]["group"]
    of_metric = by_metric(scores(rows, ("BLEU-1",)))
    assert (of_metric["BLEU-1"]["n"], of_metric["BLEU-1_out_domain"]["n"]) == (5, 1)
