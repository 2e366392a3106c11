"""CIDEr-D and the counts of BLEU equal those of pycocoevalcap, and the reward is CIDEr-D."""

import random
import subprocess
import sys

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer

from flamingo.evaluation.metrics.captions import bleu_counts, cider
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.metrics.tokenization.ptb import tokenize
from flamingo.utils.errors import UserError
from tests.helpers.captions import OUTPUTS, REFERENCES


def random_caption(rng):
    words = [f"w{number}" for number in range(12)]
    return " ".join(rng.choices(words, k=rng.choice([1, 2, 3, 5, 8, 13])))


def random_captions(seed):
    """Outputs, and the references of each."""
    rng = random.Random(seed)
    references = [[random_caption(rng) for _ in range(rng.choice([1, 2, 5]))] for _ in range(rng.choice([1, 2, 30]))]
    return [rng.choice(["", random_caption(rng), captions[0]]) for captions in references], references


@pytest.mark.parametrize("seed", range(20))
def test_values_equal_those_of_pycocoevalcap_to_the_last_bit(seed):
    outputs, references = random_captions(seed)
    scorer = CiderScorer(n=4)
    for output, captions in zip(outputs, references):
        scorer += (output, captions)
    _, expected = scorer.compute_score()
    assert np.array_equal(cider(outputs, references), expected)


@pytest.mark.parametrize("seed", range(20))
def test_counts_of_bleu_equal_those_of_pycocoevalcap(seed):
    outputs, references = random_captions(seed)
    scorer = BleuScorer(n=4)
    expected = []
    for output, captions in zip(outputs, references):
        scorer += (output, captions)
        counts = scorer.ctest[-1]
        _, closest = min((abs(length - counts["testlen"]), length) for length in counts["reflen"])
        expected.append([counts["testlen"], closest, *counts["guess"], *counts["correct"]])
    assert bleu_counts(outputs, references).tolist() == expected


def test_a_reward_does_not_depend_on_other_scored_captions():
    """It is that of the score over the whole corpus, whose document frequencies stay, for any number of outputs."""
    reward = CiderReward(REFERENCES)
    tokenized = [[tokenize(caption) for caption in captions] for captions in REFERENCES]
    each = cider([tokenize(output) for output in OUTPUTS], tokenized)
    assert reward(OUTPUTS, REFERENCES) == pytest.approx(each)
    assert reward(OUTPUTS[1:3] * 4, REFERENCES[1:3] * 4) == pytest.approx([*each[1:3]] * 4)
    other = CiderReward(REFERENCES + [["a cat on a mat"]] * 20)(OUTPUTS, REFERENCES)
    assert max(abs(other - each)) > 0.01
    assert reward(["a caption"], [["of other words"]]) == [0.0]
    with pytest.raises(UserError, match="CIDEr"):
        CiderReward(REFERENCES[:1])


def test_the_reward_cider_and_bleu_need_no_package():
    program = (
        "import sys; sys.modules['pycocoevalcap'] = None;"
        "from flamingo.evaluation.metrics.cider import CiderReward;"
        "from flamingo.evaluation.metrics.corpus import unavailable;"
        "print(unavailable(['CIDEr', 'BLEU-4']), CiderReward([['a dog'], ['two cats']])(['a dog'], [['a dog']]))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # Of unigrams and bigrams the similarity is 1, of longer n-grams, which there are none of, 0.
    assert run.stdout == "{} [5.0]\n"
