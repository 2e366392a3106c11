"""Log-likelihoods of captions are kept: a second start scores the pairs that are missing."""

import numpy as np
import pytest

from flamingo.data.document import Document, Text
from flamingo.evaluation.caption_likelihoods import CaptionLikelihoods
from flamingo.inference.candidate_scores import CandidateScores
from tests.evaluation.fake import TextEngine

TEXTS = [" a", " bb", " ccc"]


class Engine(TextEngine):
    """Scores a candidate by its length and its prompt's number, and fails in a given call."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.calls = []

    def score(self, prompts, candidates, end=False, prior=True):
        assert end
        if not prior:
            if len(self.calls) == self.fails_at:
                raise KeyboardInterrupt
            self.calls.append([(prompt.id, *texts) for prompt, texts in zip(prompts, candidates, strict=True)])
        scores = []
        for prompt, texts in zip(prompts, candidates, strict=True):
            sums = tuple(-float(10 * int(prompt.id) + len(text)) for text in texts)
            priors = tuple(-2.0 * len(text) for text in texts) if prior else None
            scores.append(CandidateScores(tuple(texts), (1,) * len(texts), sums, priors))
        return scores


@pytest.fixture
def likelihoods(tmp_path):
    prompts = [Document([Text("x")], id=str(number)) for number in range(5)]

    def make(engine):
        return CaptionLikelihoods(tmp_path / "likelihoods.npy", engine, prompts, TEXTS, batch_size=2)

    return make


def expected(needed):
    lengths = np.array([2, 3, 4])
    return np.where(needed, -10.0 * np.arange(5)[:, None] - lengths + 2 * lengths, -np.inf)


def test_a_stopped_scoring_scores_the_other_images(likelihoods, tmp_path):
    needed = np.ones((5, 3), dtype=bool)
    with pytest.raises(KeyboardInterrupt):
        likelihoods(Engine(fails_at=1)).score(needed, lambda: None)
    saved = np.load(tmp_path / "likelihoods.npy", mmap_mode="r+")
    assert np.isnan(saved).any(axis=1).tolist() == [False, False, True, True, True]
    saved[1, 2] = np.nan  # as if the row was cut off
    saved.flush()
    again = Engine()
    saves = []
    assert (likelihoods(again).score(needed, lambda: saves.append(1)) == expected(needed)).all()
    assert again.calls == [[("1", " ccc"), ("2", *TEXTS)], [("3", *TEXTS), ("4", *TEXTS)]] and len(saves) == 2
    third = Engine()
    assert (likelihoods(third).score(needed, lambda: None) == expected(needed)).all() and third.calls == []


def test_only_needed_pairs_are_scored(likelihoods):
    needed = np.zeros((5, 3), dtype=bool)
    needed[3, 1] = needed[4, [0, 2]] = True
    engine = Engine()
    assert (likelihoods(engine).score(needed, lambda: None) == expected(needed)).all()
    assert engine.calls == [[("3", " bb"), ("4", " a", " ccc")]]
