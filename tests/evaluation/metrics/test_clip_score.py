"""CLIPScore and RefCLIPScore equal their formulas on a tiny CLIP."""

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from flamingo.data.document import Image
from flamingo.evaluation.metrics.clip_score import ClipScore, clip_scores, ref_clip_scores
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.model.fingerprints import fingerprint
from flamingo.model.vision_loading import load_vision_model
from flamingo.utils.errors import UserError
from tests.helpers import tiny_clip

OUTPUTS = ["a dog runs", "two red balls", "a cat", "grass on a mat"]
REFERENCES = [["a dog", "the grass"], ["red"], ["a cat sits on a mat", "a cat"], ["two dogs", "a mat", "a ball"]]


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    return [PILImage.fromarray(generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in OUTPUTS]


def predictions(order=range(4)):
    return [{"query": f"q{i}", "output": OUTPUTS[i], "references": REFERENCES[i]} for i in order]


def test_four_pairs_have_the_scores_of_the_formulas(tmp_path, pictures):
    model = tiny_clip.save(tmp_path)
    metric = ClipScore(str(tmp_path), {f"q{i}": Image(picture) for i, picture in enumerate(pictures)})
    texts = ["A photo depicts " + text for text in [*OUTPUTS, *chain(*REFERENCES)]]
    by_image, by_text = tiny_clip.cosines(model, tmp_path, pictures, texts)
    expected, with_references, first = [], [], 4
    for i, references in enumerate(REFERENCES):
        score = 2.5 * max(float(by_image[i, i]), 0)
        largest = max(float(by_text[i, first + j]) for j in range(len(references)))
        first += len(references)
        expected.append(score)
        with_references.append(2 * score * max(largest, 0) / (score + max(largest, 0)))
    assert np.std(expected) > 0.05
    [found, alone] = metric.statistics([predictions(), predictions([2])])
    assert found["CLIPScore"].value == pytest.approx(np.mean(expected), abs=1e-5)
    assert found["RefCLIPScore"].value == pytest.approx(np.mean(with_references), abs=1e-5)
    assert alone["CLIPScore"].value == pytest.approx(expected[2], abs=1e-5)
    assert alone["RefCLIPScore"].value == pytest.approx(with_references[2], abs=1e-5)
    assert found["CLIPScore"].about == {"encoder": str(tmp_path), "same_encoder": False}


def test_negative_cosines_are_zero():
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    outputs = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    scores = clip_scores(images, outputs)
    np.testing.assert_allclose(scores, [0, 1.5])
    references = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, -0.8], [-1.0, 0.0]])]
    np.testing.assert_allclose(ref_clip_scores(scores, outputs, references), [0, 2 * 1.5 * 0.6 / 2.1], atol=1e-6)


def test_scores_by_the_models_own_encoder_are_marked(tmp_path, pictures):
    tiny_clip.save(tmp_path / "one")
    tiny_clip.save(tmp_path / "other")
    for name, same, mark in (("one", True, "_same_encoder"), ("other", False, "")):
        metric = ClipScore(str(tmp_path / "one"), {"q0": Image(pictures[0])})
        metric.model_encoder = fingerprint(load_vision_model(tmp_path / name))
        [scores] = metric.statistics([predictions([0])])
        assert list(scores) == [f"CLIPScore{mark}", f"RefCLIPScore{mark}"]
        assert scores[f"RefCLIPScore{mark}"].about["same_encoder"] is same


def test_a_model_without_a_text_tower_is_refused(backbones):
    with pytest.raises(UserError, match="clip_vision_model"):
        DualEncoder(backbones / "clip_vision_model")
