"""ROC AUC equals the rank statistic of Mann and Whitney, also in resamples of the queries."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from flamingo.evaluation.metrics.resampling import bootstrap
from flamingo.evaluation.metrics.roc_auc import RocAuc, probabilities, roc_auc

RNG = np.random.default_rng(0)
LABELS = RNG.integers(2, size=40).astype(bool)
VALUES = RNG.integers(12, size=40) + 3.0 * LABELS  # with ties


def expected(labels, values):
    positives, negatives = values[labels], values[~labels]
    return mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))


def test_ties_count_half():
    assert roc_auc([True, False, False, True], [0.5, 0.5, 0.1, 0.9]).value == 0.875
    assert roc_auc(LABELS.tolist(), VALUES.tolist()).value == pytest.approx(expected(LABELS, VALUES))


def test_a_query_counts_as_often_as_it_is_drawn():
    statistic = roc_auc(LABELS.tolist(), VALUES.tolist())
    draws = RNG.integers(40, size=(5, 40))
    sums = np.stack([statistic.parts[draw].sum(axis=0) for draw in draws])
    assert statistic.of_sums(sums) == pytest.approx([expected(LABELS[draw], VALUES[draw]) for draw in draws])
    low, high = bootstrap(statistic)
    assert low < statistic.value < high


def test_a_query_without_label_does_not_count():
    without = roc_auc([True, None, False, False, True], [0.5, 7.0, 0.5, 0.1, 0.9])
    assert without.value == 0.875 and without.n == 4


def row(reference, output, **means):
    ranking = {"by": "mean", "candidates": [{"text": text, "mean": mean} for text, mean in means.items()]}
    found = {"references": [reference] if reference else [], "output": output}
    return found | {"ranking": ranking} if means else found


def test_the_probability_of_the_answer_is_compared():
    ranked = [
        row("yes", "no", no=-1.0, yes=-2.0),
        row("no", "no", no=-1.0, yes=-4.0),
        row("", "yes", yes=-1.0, no=-9.0),
    ]
    assert probabilities(ranked[0]["ranking"])["yes"] == pytest.approx(1 / (1 + np.e))
    copied = [row("yes", "no"), row("no", "no")]
    one_sided = [row("no", "no", no=-1.0, yes=-2.0)]
    both, answers, nothing = RocAuc("yes").statistics([ranked, copied, one_sided])
    assert both["roc_auc"].value == 1 and both["roc_auc"].n == 2
    assert answers["roc_auc"].value == 0.5 and nothing == {}
