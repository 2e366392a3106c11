"""Loading a saved model gives identical logits, with and without the frozen backbones in the checkpoint."""

import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.model.fingerprints import fingerprint
from flamingo.model.language import without_dropout
from flamingo.model.vision_loading import load_vision_model
from flamingo.synthetic import backbones as shipped
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices


@pytest.mark.parametrize("include_backbones", [True, False])
def test_loaded_logits_are_identical(model, tmp_path, include_backbones):
    expected = model(**tiny.inputs()).logits
    model.save_pretrained(tmp_path, include_backbones=include_backbones)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)
    assert not loaded.training
    assert torch.equal(loaded(**tiny.inputs()).logits, expected)
    assert loaded.trainable_parameter_names() == model.trainable_parameter_names()
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert any(key.startswith("language_model.") for key in keys) is include_backbones
    assert {key for key in keys if not key.startswith(("language_model.", "vision_model."))} == {
        *model.trainable_parameter_names(),
        "new_tokens.token_ids",
    }
    # And a second time, whichever way round.
    loaded.save_pretrained(tmp_path / "again", include_backbones=not include_backbones)
    again = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "again").to(devices.DEVICE)
    assert torch.equal(again(**tiny.inputs()).logits, expected)


def test_a_config_in_memory_does_not_hide_missing_backbones(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path, include_backbones=False)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path, config=gpt2.config).to(devices.DEVICE)
    assert loaded.config is not gpt2.config
    assert torch.equal(loaded(**tiny.inputs()).logits, gpt2(**tiny.inputs()).logits)


@pytest.mark.parametrize("include_backbones", [True, False])
def test_settings_of_generation_come_along(gpt2, tmp_path, include_backbones):
    gpt2.generation_config.max_new_tokens = 5
    gpt2.generation_config.eos_token_id = tiny.NEW_TOKEN_IDS[0]
    gpt2.save_pretrained(tmp_path, include_backbones=include_backbones)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path).generation_config
    assert (loaded.max_new_tokens, loaded.eos_token_id) == (5, tiny.NEW_TOKEN_IDS[0])


@pytest.mark.parametrize("include_backbones", [True, False])
def test_autoclasses_find_it(gpt2, tmp_path, include_backbones):
    gpt2.save_pretrained(tmp_path, include_backbones=include_backbones)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16).to(devices.DEVICE)
    assert half.language_model.dtype == torch.bfloat16
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FlamingoConfig)
    loaded = AutoModel.from_pretrained(tmp_path).to(devices.DEVICE)
    assert isinstance(loaded, FlamingoForConditionalGeneration)
    assert torch.equal(loaded(**tiny.inputs()).logits, gpt2(**tiny.inputs()).logits)
    assert not any(p.requires_grad for p in loaded.language_model.parameters())


def test_loading_reports_no_key_missing_or_left_over(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path)
    _, info = FlamingoForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())


def test_bfloat16_backbones_and_float32_parts_keep_their_dtype(backbones, tmp_path):
    model = tiny.flamingo(backbones, dtype=torch.bfloat16)
    expected = model(**tiny.inputs()).logits
    for include_backbones in (True, False):
        folder = tmp_path / str(include_backbones)
        model.save_pretrained(folder, include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(folder).to(devices.DEVICE)
        assert torch.equal(loaded(**tiny.inputs()).logits, expected)
        assert loaded.fusion.blocks["1"].attention.to_q.weight.dtype == torch.float32
        assert loaded.language_model.dtype == torch.bfloat16


def test_other_backbones_than_those_trained_with_are_refused(backbones, tmp_path):
    gpt2 = tiny.flamingo(backbones)
    gpt2.language_model.save_pretrained(tmp_path / "lm")
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "clip_vision_model", tmp_path / "lm", new_token_ids=[300, 301], **tiny.PARTS
    )
    model.save_pretrained(tmp_path / "flamingo", include_backbones=False)
    FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo").to(devices.DEVICE)
    gpt2.language_model.transformer.h[2].mlp.c_fc.weight.data[0, 0] += 0.5
    gpt2.language_model.save_pretrained(tmp_path / "lm")
    with pytest.raises(UserError, match=r"lm \(revision None\)"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo").to(devices.DEVICE)


@pytest.mark.parametrize("composed", [torch.float16, torch.float32])
def test_float16_is_no_reason_to_refuse(backbones, tmp_path, composed):
    """It rounds what the fingerprint is taken of, whichever way round."""
    model = tiny.flamingo(backbones, dtype=composed)
    model.save_pretrained(tmp_path, include_backbones=False)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype).to(devices.DEVICE)
        assert loaded.language_model.dtype == dtype
    assert FlamingoForConditionalGeneration.from_pretrained(tmp_path).language_model.dtype == composed


def test_backbones_that_were_changed_are_not_left_out(gpt2, tmp_path):
    gpt2.language_model.adapter = torch.nn.Linear(2, 2)  # added weights, as of an adapter, would be lost
    with pytest.raises(UserError, match=r"language_model.*gpt2.*include_backbones=True"):
        gpt2.save_pretrained(tmp_path, include_backbones=False)
    del gpt2.language_model.adapter
    gpt2.save_pretrained(tmp_path, include_backbones=False)
    with pytest.raises(ValueError, match="max_shard_size"):
        gpt2.save_pretrained(tmp_path, include_backbones=False, max_shard_size="1MB")


def test_a_fingerprint_depends_on_values_and_dtype_not_on_names(gpt2):
    model = gpt2.language_model.to(torch.bfloat16)
    expected = fingerprint(model)
    assert fingerprint(model.float()) == expected
    assert fingerprint(torch.nn.ModuleDict({"renamed": model})) == expected
    model.lm_head.weight.data[0, 0] += 1
    assert fingerprint(model) != expected


def test_backbones_without_a_name_cannot_be_left_out(gpt2, tmp_path):
    config = FlamingoConfig.from_dict({**gpt2.config.to_dict(), "backbones": None})
    with pytest.raises(ValueError, match="were not loaded by name"):
        FlamingoForConditionalGeneration(config).save_pretrained(tmp_path, include_backbones=False)


@pytest.mark.parametrize("include_backbones", [True, False])
def test_shapes_that_do_not_fit_are_named(gpt2, tmp_path, include_backbones):
    gpt2.save_pretrained(tmp_path, include_backbones=include_backbones)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state["connector.latents"] = state["connector.latents"][:4].clone()
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match="mismatch"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)


def test_keys_of_a_whole_checkpoint_that_do_not_fit_are_named(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state["connector.latens"] = state.pop("connector.latents")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing_keys.*connector\.latents.*unexpected_keys.*connector\.latens"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)


def test_keys_that_do_not_fit_are_named(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path, include_backbones=False)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state["connector.latens"] = state.pop("connector.latents")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"\['connector.latents'\].*\['connector.latens'\]"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)


def test_an_argument_that_would_be_ignored_is_refused(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path, include_backbones=False)
    with pytest.raises(ValueError, match=r"\['device_map'\]"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path, device_map="auto").to(devices.DEVICE)


def test_a_composition_generates_by_the_language_models_settings(backbones, tmp_path):
    language_model = tiny.flamingo(backbones).language_model
    language_model.generation_config.max_new_tokens = 3
    language_model.save_pretrained(tmp_path)
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "vit", tmp_path, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
    )
    assert model.generation_config.max_new_tokens == 3


def test_a_field_of_another_type_in_a_backbones_config_is_named(backbones, tmp_path):
    AutoModel.from_pretrained(backbones / "vit").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": "three"'))
    with pytest.raises(UserError, match=f"vision encoder {tmp_path}: .*num_hidden_layers"):
        load_vision_model(tmp_path)


def test_what_is_no_vision_encoder_is_refused(backbones):
    with pytest.raises(UserError, match="GPT2Model"):
        FlamingoForConditionalGeneration.from_vision_text_pretrained(backbones / "gpt2", backbones / "gpt2")


def test_arguments_for_each_backbone_reach_it(backbones, tmp_path):
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "clip_vision_model",
        backbones / "gpt2",
        new_token_ids=tiny.NEW_TOKEN_IDS,
        vision_kwargs={"dtype": torch.bfloat16, "revision": "one"},
        text_kwargs={"attn_implementation": "eager", "revision": "two"},
    )
    assert (model.vision_model.dtype, model.language_model.dtype) == (torch.bfloat16, torch.float32)
    assert model.language_model.config._attn_implementation == "eager"
    assert [model.config.backbones[part]["revision"] for part in ("vision_model", "language_model")] == ["one", "two"]


@pytest.mark.parametrize("include_backbones", [True, False])
def test_precision_and_attention_can_be_chosen_at_loading(gpt2, tmp_path, include_backbones):
    gpt2.save_pretrained(tmp_path, include_backbones=include_backbones)
    loaded = FlamingoForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager"
    ).to(devices.DEVICE)
    assert (loaded.vision_model.dtype, loaded.language_model.dtype) == (torch.bfloat16, torch.bfloat16)
    assert loaded.language_model.config._attn_implementation == "eager"
    assert {p.dtype for p in loaded.parameters() if p.requires_grad} == {torch.float32}


def test_nested_dropout_rates_are_found():
    config = AutoConfig.for_model("gemma3", text_config={"attention_dropout": 0.3})
    assert without_dropout(config).text_config.attention_dropout == 0.0


def test_frozen_models_load_without_dropout(backbones, family):
    config = tiny.flamingo(backbones, language=family).config
    rates = [
        value for key, value in _walk(config.text_config.to_dict()) if "drop" in str(key) and isinstance(value, float)
    ]
    assert not any(rates)
    assert rates or family in {"mpt", "mosaic_gpt"}


def _walk(settings):
    for key, value in settings.items():
        yield from _walk(value) if isinstance(value, dict) else [(key, value)]


def test_a_composition_without_new_tokens_is_warned_of(backbones, caplog):
    logging.getLogger("transformers").propagate = True
    tiny.flamingo(backbones, new_token_ids=[])
    assert "no new_token_ids" in caplog.text


@pytest.fixture
def moved(backbones, tmp_path, monkeypatch):
    """A checkpoint that names its backbones by relative paths, saved next to them; and the folder that holds all."""
    shutil.copytree(backbones / "clip_vision_model", tmp_path / "one" / "vision")
    shutil.copytree(backbones / "gpt2", tmp_path / "one" / "language")
    monkeypatch.chdir(tmp_path / "one")
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        "vision", "language", new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
    ).eval()
    model.place(devices.DEVICE)
    model.save_pretrained("runs/flamingo", include_backbones=False)
    monkeypatch.chdir(tmp_path)
    return model


def test_backbones_are_found_from_another_working_directory(moved, tmp_path):
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "one/runs/flamingo").to(devices.DEVICE)
    assert torch.equal(loaded(**tiny.inputs()).logits, moved(**tiny.inputs()).logits)


def test_backbones_that_move_with_the_checkpoint_are_found(moved, tmp_path):
    (tmp_path / "one").rename(tmp_path / "two")
    loaded = FlamingoForConditionalGeneration.from_pretrained("two/runs/flamingo").to(devices.DEVICE)
    assert torch.equal(loaded(**tiny.inputs()).logits, moved(**tiny.inputs()).logits)
    loaded.save_pretrained("three", include_backbones=False)
    assert loaded.config.backbones["language_model"]["name"] == str(tmp_path / "two/language")
    FlamingoForConditionalGeneration.from_pretrained("three").to(devices.DEVICE)


@pytest.mark.parametrize(
    ("folder", "argument"), [("vision", "vision_model_name_or_path"), ("language", "text_model_name_or_path")]
)
def test_a_backbone_moved_alone_is_named_with_what_to_pass(moved, tmp_path, folder, argument):
    (tmp_path / "one" / folder).rename(tmp_path / "elsewhere")
    checkpoint = tmp_path / "one/runs/flamingo"
    with pytest.raises(ValueError, match=rf"{folder} .*{tmp_path}/one/{folder}, .*pass {argument}=FOLDER"):
        FlamingoForConditionalGeneration.from_pretrained(checkpoint).to(devices.DEVICE)
    loaded = FlamingoForConditionalGeneration.from_pretrained(checkpoint, **{argument: "elsewhere"}).to(devices.DEVICE)
    assert torch.equal(loaded(**tiny.inputs()).logits, moved(**tiny.inputs()).logits)
    backbone = getattr(loaded, f"{folder}_model")
    next(iter(backbone.parameters())).data += 1
    backbone.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="does not hold the weights"):
        FlamingoForConditionalGeneration.from_pretrained(checkpoint, **{argument: tmp_path / "other"})


def test_shipped_backbones_are_found_in_any_installation(tmp_path):
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        shipped.VISION, shipped.LANGUAGE, new_token_ids=[1], vision_features={"class_token": "none"}
    )
    model.save_pretrained(tmp_path / "run", include_backbones=False)
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(str(shipped.VISION.parents[1]), "/elsewhere/flamingo"))
    saved = FlamingoConfig.from_pretrained(tmp_path / "run").backbones
    assert saved["vision_model"]["name"] == "/elsewhere/flamingo/backbones/vision"
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "moved").rename(tmp_path / "deeper" / "run")
    FlamingoForConditionalGeneration.from_pretrained(tmp_path / "deeper" / "run").to(devices.DEVICE)


def test_a_name_on_the_hub_stays_one(gpt2, tmp_path):
    gpt2.config.backbones["language_model"]["name"] = "someone/gpt2"
    gpt2.save_pretrained(tmp_path, include_backbones=False)
    assert FlamingoConfig.from_pretrained(tmp_path).backbones["language_model"]["name"] == "someone/gpt2"
    with pytest.raises(ValueError, match="language model someone/gpt2: there is no such folder"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)


def test_a_damaged_checkpoint_is_named(gpt2, tmp_path):
    for include_backbones in (True, False):
        gpt2.save_pretrained(tmp_path, include_backbones=include_backbones)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UserError, match=str(tmp_path)):
            FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)
