"""Attention of words: the right words at the right tokens, and shares that follow their definition."""

import json

import numpy as np
import pytest
import torch

from experiments.runs.run_word_attention import run_word_attention
from experiments.word_attention import WordAttentionConfig
from flamingo.data.processor import FlamingoProcessor
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.synthetic.attention_study import Word, attention_shares, make_scenes, named_words, word_attention
from flamingo.synthetic.backbones import LANGUAGE, VISION
from flamingo.synthetic.documents import Turn, show
from flamingo.synthetic.drawing import masks
from flamingo.synthetic.grammar import caption
from flamingo.utils.errors import UserError


@pytest.fixture(scope="module")
def processor():
    return FlamingoProcessor.from_vision_text_pretrained(VISION, LANGUAGE)


@pytest.fixture(scope="module")
def model(processor):
    """Untrained, but its attention is far from even."""
    torch.manual_seed(0)
    parts = {
        "vision_features": {"class_token": "none"},
        "connector": {"depth": 1, "num_latents": 8, "num_heads": 2, "head_dim": 16},
        "fusion": {"every": 3, "num_heads": 2, "head_dim": 16},
    }
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        VISION, LANGUAGE, new_token_ids=processor.new_token_ids, **parts
    ).eval()
    for name, parameter in model.named_parameters():
        if ".attention.to_" in name and not name.startswith("language_model"):
            parameter.data.normal_(std=0.3)
    return model


@pytest.mark.parametrize("objects", [1, 2])
def test_scenes_have_the_asked_objects_and_the_evaluation_split(objects):
    scenes = make_scenes(30, objects, seed=0)
    assert len(scenes) == 30 and all(scene.count == objects and scene.split == "evaluation" for scene in scenes)
    assert all((scene.axis is None) == (objects == 1) for scene in scenes)
    assert scenes == make_scenes(30, objects, seed=0) != make_scenes(30, objects, seed=1)


def test_words_are_said_from_the_token_before_them(processor):
    for scene in make_scenes(40, 2, seed=0):
        ids = processor.encode(show([Turn(scene, None, caption(scene))])).input_ids
        tokens = [processor.tokenizer.decode([i]) for i in ids.tolist()]
        words = named_words(scene, 3, tokens, "Output:")
        first, second = scene.kinds
        assert [word.text for word in words] == [first.colour, first.shape, second.colour, second.shape]
        assert [(word.object, word.attribute) for word in words] == [
            *((0, "colour"), (0, "shape"), (1, "colour"), (1, "shape"))
        ]
        for word in words:
            assert word.scene == 3
            assert word.text.startswith(tokens[word.token + 1].strip()) and not tokens[word.token].endswith(word.text)


def test_a_word_of_several_tokens_is_said_from_before_the_first():
    (scene,) = make_scenes(1, 1, seed=0)
    (kind,) = scene.kinds
    tokens = ["<image>", "Output:", " a", f" {kind.colour[:2]}", kind.colour[2:], f" {kind.shape}"]
    assert [word.token for word in named_words(scene, 0, tokens, "Output:")] == [2, 4]


def test_shares_by_hand():
    """Two patches, the halves of the picture; all attention of the one head is on the first object's half."""
    scenes = [scene for scene in make_scenes(30, 2, seed=0) if scene.axis == "horizontal"][:3]
    fields = np.zeros((2, 32, 32))
    fields[0, :, :16] = fields[1, :, 16:] = 1 / 512
    words = [Word("", attribute, i, o, 0) for i in range(3) for o in (0, 1) for attribute in ("colour", "shape")]
    maps = {7: np.array([[[1.0, 0.0] if word.object == 0 else [0.1, 0.3] for word in words]])}
    rows = attention_shares(words, maps, scenes, fields)
    assert [(row.words, row.layer, row.head) for row in rows] == [
        (attribute, layer, head)
        for attribute in ("colour", "shape")
        for layer, head in ((7, 0), (7, None), (None, None))
    ]
    cover = np.stack([masks(scene, 32).mean((1, 2)) for scene in scenes])  # of the picture; of a half it is twice that
    for row in rows:
        assert row.area == pytest.approx(cover.mean()) and row.uniform == pytest.approx(cover.mean())
        assert row.best == pytest.approx(2 * cover.mean())
        assert row.share == pytest.approx(2 * (cover[:, 0] + 0.75 * cover[:, 1]).mean() / 2)
        assert row.other == pytest.approx(2 * 0.25 * cover[:, 0].mean() / 2)
        assert row.elsewhere == pytest.approx(row.share), "every picture's map is the same"
        assert row.ci95[0] < row.share < row.ci95[1] and row.scenes == 3


def test_other_attention_is_that_of_the_same_word_elsewhere():
    scenes = [scene for scene in make_scenes(30, 2, seed=0) if scene.axis == "vertical"][:2]
    fields = np.zeros((2, 32, 32))
    fields[0, :16] = fields[1, 16:] = 1 / 512
    words = [Word("", attribute, i, o, 0) for i in range(2) for o in (0, 1) for attribute in ("colour", "shape")]
    # On its object in the first picture, on the other in the second.
    maps = {0: np.array([[np.eye(2)[word.object if word.scene == 0 else 1 - word.object] for word in words]])}
    cover = np.stack([masks(scene, 32).mean((1, 2)) for scene in scenes])
    row = attention_shares(words, maps, scenes, fields)[0]
    assert row.share == pytest.approx(2 * cover[0].mean() / 2)
    assert row.elsewhere == pytest.approx(2 * cover[1].mean() / 2)


def test_the_maps_are_those_of_the_words_in_any_batch(model, processor):
    scenes = make_scenes(5, 2, seed=0)
    words, maps = word_attention(model, processor, scenes, batch_size=2)
    again, alone = word_attention(model, processor, scenes, batch_size=5)
    assert words == again and [word.scene for word in words] == [i for i in range(5) for _ in range(4)]
    for layer in (0, 3):
        assert maps[layer].shape == (2, 20, 16)
        np.testing.assert_allclose(maps[layer], alone[layer], rtol=1e-3, atol=1e-5)
        assert np.abs(maps[layer][:, 0] - maps[layer][:, 4]).max() > 1e-3


def test_the_command_measures_a_run_and_draws_it(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    paths = run_word_attention(WordAttentionConfig(run=str(tmp_path), scenes=4))
    assert sorted(path.name for path in paths) == ["attention.json", "attention.png", "attention_words.png"]
    assert all(path.is_file() for path in paths)
    rows = json.loads((tmp_path / "attention.json").read_text())
    assert {(row["objects"], row["words"]) for row in rows} == {
        (2, "colour"),
        (2, "shape"),
        (1, "colour"),
        (1, "shape"),
    }
    assert len(rows) == 4 * (2 * 3 + 1) and all(0 < row["share"] < row["best"] for row in rows)


def test_what_cannot_be_looked_into_is_said(tmp_path):
    with pytest.raises(UserError, match="run=FOLDER"):
        run_word_attention(WordAttentionConfig())
    with pytest.raises(UserError, match=r"run=.* has no checkpoint"):
        run_word_attention(WordAttentionConfig(run=str(tmp_path)))
