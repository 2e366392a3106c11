"""A converted IDEFICS gives the logits of transformers' own."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from transformers import IdeficsProcessor
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

from flamingo import FlamingoForConditionalGeneration
from flamingo.interop import idefics
from flamingo.utils.errors import UserError
from tests.helpers.idefics_checkpoint import VOCABULARY, make, save
from tests.interop.peers import document

#: With and without norms on queries and keys, with both kinds of gates, tied and not.
VARIANTS = {
    f"{'qk_norm' if norms else 'plain'} {gate}{' tied' if tied else ''}": (norms, gate, tied)
    for norms, gate, tied in itertools.product((False, True), ("float", "vector"), (False,))
} | {"tied": (True, "float", True)}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def original(request):
    norms, gate, tied = request.param
    return make(norms, gate, tied)


@pytest.fixture
def converted(original, tmp_path):
    model, processor, _ = idefics.convert(save(original, tmp_path / "idefics"))
    return model.eval(), processor


def theirs(inputs):
    """The same inputs as IDEFICS takes them."""
    image_attention_mask = inputs["image_index"].unsqueeze(-1) == torch.arange(inputs["pixel_values"].shape[1])
    kept = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    return {**kept, "image_attention_mask": image_attention_mask.long()}


@torch.no_grad()
@pytest.mark.parametrize("padding", ["left", "right"])
def test_logits_are_those_of_the_original(original, converted, padding):
    inputs = document([VOCABULARY, VOCABULARY + 1], padding)
    real = inputs["attention_mask"].bool()
    expected = original(**theirs(inputs)).logits[real]
    assert expected.shape[-1] == VOCABULARY + 2 and expected.std() > 0.1
    assert (converted[0](**inputs).logits[real] - expected).abs().max() < 1e-4
    others = original(**theirs(inputs | {"pixel_values": inputs["pixel_values"].flip(1)})).logits[real]
    assert (expected - others).abs().max() > 0.1  # it matters what the pictures show


@torch.no_grad()
def test_a_model_without_additional_rows_is_converted_too(tmp_path):
    original = make(vocab_size=VOCABULARY + 2, additional_vocab_size=0)
    model, processor, _ = idefics.convert(save(original, tmp_path / "idefics"))
    inputs = document([VOCABULARY, VOCABULARY + 1], "right")
    assert processor.new_token_ids == model.config.new_token_ids == []
    found, expected = model.eval()(**inputs).logits, original(**theirs(inputs)).logits
    assert (found - expected)[inputs["attention_mask"].bool()].abs().max() < 1e-4


@pytest.mark.parametrize("beams", [1, 3])
def test_what_it_generates_is_the_same(original, converted, beams):
    inputs = document([VOCABULARY, VOCABULARY + 1], "left")
    how = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    how["no_repeat_ngram_size"] = 2
    expected = original.generate(**theirs(inputs), **how)
    assert torch.equal(converted[0].generate(**inputs, **how), expected)
    assert len(set(expected[:, -8:].flatten().tolist())) > 3


@pytest.fixture
def saved(tmp_path):
    return save(make(), tmp_path / "idefics")


def test_prompts_are_those_of_its_own_processor(saved):
    rng = np.random.default_rng(0)
    images = [PILImage.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(3)]
    own = IdeficsProcessor.from_pretrained(saved, image_processor=IdeficsImageProcessorPil.from_pretrained(saved))
    expected = own(text=[["a", images[0], images[1], "b", images[2], "c"]], return_tensors="pt")
    _, processor, notes = idefics.convert(saved)
    found = processor(images=[images], text=["a<image><image>b<image>c"])
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    seen = found["image_index"].unsqueeze(-1) == torch.arange(3)
    assert seen.long().tolist() == expected["image_attention_mask"].tolist()
    # Theirs are resized by Pillow, ours by PyTorch: a level of 255 is 0.015.
    torch.testing.assert_close(found["pixel_values"][:, :, 0], expected["pixel_values"], atol=0.031, rtol=0)
    assert processor.end_of_chunk == "\n" and "'\\n'" in notes[0]


def test_the_converted_model_is_saved_whole_and_found_again(saved, tmp_path):
    model, processor, _ = idefics.convert(saved)
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert loaded.config.fusion == model.config.fusion and loaded.config.connector == model.config.connector
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert {name.split(".")[0] for name in loaded.trainable_parameter_names()} == {
        *("connector", "fusion", "new_tokens")
    }


def test_frozen_parts_keep_the_precision_that_they_were_saved_in(tmp_path):
    model, _, _ = idefics.convert(save(make().bfloat16(), tmp_path / "idefics"))
    model.save_pretrained(tmp_path / "ours")
    for found in (model, FlamingoForConditionalGeneration.from_pretrained(tmp_path / "ours")):
        assert {p.dtype for part in (found.language_model, found.vision_model) for p in part.parameters()} == {
            torch.bfloat16
        }
        assert found.connector.latents.dtype == found.new_tokens.input_rows.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.norm.weight"), r"model\.norm\.weight"),
        (lambda s: s.update(extra=torch.ones(2)), r"extra$"),
        (
            lambda s: s.update({"lm_head.additional_fc.weight": torch.ones(3, 32)}),
            r"lm_head\.additional_fc\.weight.*\[3, 32\].*\[2, 32\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(saved, change, message):
    state = load_file(saved / "model.safetensors")
    change(state)
    save_file(state, saved / "model.safetensors")
    with pytest.raises(UserError, match=message):
        idefics.convert(saved)


def test_what_is_no_idefics_with_a_resampler_is_refused(saved, backbones, tmp_path):
    with pytest.raises(UserError, match=r"gpt2.*idefics"):
        idefics.convert(backbones / "gpt2")
    with pytest.raises(UserError, match=r"config\.json"):
        idefics.convert(tmp_path / "nowhere")
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"alpha_type": "matrix"}))
    with pytest.raises(UserError, match=r"alpha_type='matrix'.*config\.json"):
        idefics.convert(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        idefics.convert(saved)
    (saved / "config.json").write_text(json.dumps(config | {"use_resampler": False}))
    with pytest.raises(UserError, match=r"use_resampler=false.*config\.json"):
        idefics.convert(saved)


def test_tokenizer_and_image_processor_may_come_from_elsewhere(backbones, tmp_path):
    original = make()
    save(original, tmp_path / "whole")
    original.save_pretrained(tmp_path / "bare")
    _, expected, _ = idefics.convert(tmp_path / "whole")
    vision, language = str(backbones / "clip_vision_model"), str(backbones / "llama")
    model, processor, _ = idefics.convert(tmp_path / "bare", vision, language)
    assert model.config.new_token_ids == processor.new_token_ids == expected.new_token_ids
    picture = PILImage.new("RGB", (20, 24), "red")
    own = processor(images=[picture], text="one<image>two")
    for key, value in expected(images=[picture], text="one<image>two").items():
        torch.testing.assert_close(own[key], value)
    with pytest.raises(UserError, match=r"<fake_token_around_image>.*300.*301"):
        make(vocab_size=301).save_pretrained(tmp_path / "other")
        idefics.convert(tmp_path / "other", vision, language)
