"""Scores of pairs and of sentences, by hand, and their intervals over groups."""

import pytest
import torch

from flamingo.evaluation.metrics import encoder_pair_scores
from flamingo.evaluation.metrics.consistency import Consistency
from flamingo.evaluation.metrics.encoder_pair_scores import EncoderPairScores
from flamingo.evaluation.metrics.pair_scores import PairScores, pair_scores
from flamingo.evaluation.statistics import resample
from flamingo.inference.dual_encoder import DualEncoder
from tests.evaluation.fake import example
from tests.helpers import tiny_clip


@pytest.mark.parametrize(
    ("values", "text", "image"),
    [
        ([[3, 1], [2, 4]], True, True),
        ([[3, 1], [4, 5]], True, False),  # the first caption fits the second image better than its own
        ([[3, 4], [2, 5]], False, True),  # the second caption is likelier in any case
        ([[1, 3], [4, 2]], False, False),
        ([[2, 2], [1, 3]], False, True),  # equal values are not right
        ([[2, 1], [2, 3]], True, False),
    ],
)
def test_scores_of_a_pair(values, text, image):
    expected = {"text_score": text, "image_score": image, "group_score": text and image}
    assert pair_scores([list(map(float, of_image)) for of_image in values]) == expected


def ranked(query, caption, values):
    """A prediction that ranks "a" and "b" by their values minus the prior."""
    candidates = [
        {"text": name, "sum": 0.0, "minus_prior": float(value)} for name, value in zip("ab", values, strict=True)
    ]
    return {"query": query, "references": [caption], "ranking": {"by": "minus_prior", "candidates": candidates}}


def test_only_whole_pairs_with_rankings_count():
    pairs = {f"{pair}/{side}": str(pair) for pair in range(4) for side in (0, 1)}
    rows = [ranked("0/0", "a", (3, 1)), ranked("0/1", "b", (2, 4)), ranked("1/0", "a", (3, 1))]
    rows += [ranked("1/1", "b", (4, 5)), ranked("2/0", "a", (1, 2)), {"query": "3/0", "references": ["a"]}]
    [statistics] = PairScores(pairs).statistics([rows])
    assert {name: (one.value, one.n) for name, one in statistics.items()} == {
        "text_score": (1, 2),
        "image_score": (0.5, 2),
        "group_score": (0.5, 2),
    }
    assert resample([statistics["image_score"]], 1000).has_value.tolist() == [[True], [False], [True]] + 3 * [[False]]
    assert PairScores(pairs).statistics([rows[4:]]) == [{}]


def test_a_sentence_is_consistent_if_all_statements_are_right():
    sentences = {"a": "first", "b": "second", "c": "first", "d": "third", "e": "second"}
    rows = []
    for query, output, references in [("a", "true", ["true"]), ("b", "true", ["true"]), ("c", "true", ["false"])]:
        rows.append({"query": query, "output": output, "references": references})
    rows.append({"query": "d", "output": "true", "references": []})
    rows.append({"query": "e", "output": "false", "references": ["false"]})
    [statistics] = Consistency(sentences).statistics([rows])
    assert statistics["consistency"].value == 0.5 and statistics["consistency"].n == 2


def test_cosines_of_images_and_captions_are_not_mixed_up(monkeypatch):
    class Encoder(DualEncoder):
        """Both images fit the first caption better, and each caption fits its own image better."""

        def __init__(self, name):
            pass

        def image_vectors(self, images):
            return torch.tensor([[0.9, 0.5], [0.8, 0.6]])

        def text_vectors(self, texts):
            assert list(texts) == ["a", "b"]
            return torch.eye(2)

    monkeypatch.setattr(encoder_pair_scores, "DualEncoder", Encoder)
    rows = [{"query": "0/0", "references": ["a"]}, {"query": "0/1", "references": ["b"]}]
    image = example("query", 0).image
    metric = EncoderPairScores("name", {"0/0": "0", "0/1": "0"}, {"0/0": image, "0/1": image})
    [statistics] = metric.statistics([rows])
    values = {name: one.value for name, one in statistics.items()}
    assert values == {"encoder_text_score": 0, "encoder_image_score": 1, "encoder_group_score": 0}


def test_a_dual_encoder_scores_pairs_by_cosines(tmp_path):
    model = tiny_clip.save(tmp_path)
    examples = [example("query", 0), example("query", 5)]
    captions = [one.references[0] for one in examples]
    pictures = [one.image.frames[0] for one in examples]
    cosines, _ = tiny_clip.cosines(model, tmp_path, pictures, captions)
    images = {one.id: one.image for one in examples}
    rows = [{"query": one.id, "references": one.references[:1]} for one in examples]
    metric = EncoderPairScores(str(tmp_path), dict.fromkeys(images, "0"), images)
    [statistics, alone] = metric.statistics([rows, rows[:1]])
    expected = pair_scores(cosines.tolist())
    assert {name: one.value for name, one in statistics.items()} == {
        f"encoder_{name}": float(value) for name, value in expected.items()
    }
    assert statistics["encoder_text_score"].about == {"encoder": str(tmp_path)} and alone == {}
