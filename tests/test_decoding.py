"""Decoding gives what the model gives alone, whatever runs together and was seen before."""

import pytest
import torch
from PIL import Image as PILImage

from flamingo import Document, Image, Text
from flamingo.decoding import Decoder
from flamingo.evaluation.demonstrations import document
from tests.evaluation.fake import example, model_and_processor

NEW = 5


@pytest.fixture(scope="module")
def parts(backbones):
    return model_and_processor(backbones)


@pytest.fixture(scope="module")
def prompts():
    """Of different lengths, with 3, 1, 2, 1 and 4 images; the second shows no image with its demonstrations."""
    shown = [example("support", i, references=1) for i in range(4)]
    counts = [(2, True), (3, False), (1, True), (0, True), (3, True)]
    return [document(example("query", i), shown[i % 2 :][:n], images) for i, (n, images) in enumerate(counts)]


def alone(parts, prompt, **kwargs):
    """By the model's own interface, from pixels, one prompt at a time."""
    model, processor = parts
    inputs = processor.batch([prompt], prompt=True)
    ids = model.generate(
        **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=processor.end_of_chunk_token_id, **kwargs
    )
    text = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    return text.split("<|endofchunk|>")[0].replace("<s>", "").replace("</s>", "").replace("<image>", "").lstrip()


@pytest.mark.parametrize("beams", [1, 3])
def test_outputs_do_not_depend_on_the_batch_or_on_the_cache_and_keep_their_order(parts, prompts, beams):
    expected = [alone(parts, prompt, num_beams=beams) for prompt in prompts]
    assert len(set(expected)) > 3
    for batch_size in (1, 4):
        decoder = Decoder(*parts, batch_size)
        assert decoder(prompts, NEW, beams) == expected
        assert decoder(prompts[::-1], NEW, beams) == expected[::-1]  # now all from the cache


def test_each_picture_is_encoded_once_even_where_it_is_made_anew(parts, prompts, tmp_path, monkeypatch):
    model, processor = parts
    encoded = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: encoded.append(pixels.shape[1]) or encode(pixels))
    decoder = Decoder(model, processor, 2)
    decoder(prompts, NEW)
    assert sum(encoded) == 8  # 5 queries and 3 demonstrations, in 11 places
    PILImage.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    for path in (str(tmp_path / "red.png"), tmp_path / "red.png"):
        decoder([Document([Image(path), Text("Output:")])], NEW)
    assert sum(encoded) == 9
    decoder([document(example("query", 3), [])], NEW)  # another picture object that shows the same
    assert sum(encoded) == 9
    decoder([document(example("query", 9), [])], NEW)
    assert sum(encoded) == 10
    for _ in range(2):
        decoder([Document([Image(tmp_path / "red.png").view(1), Text("Output:")])], NEW)
    assert sum(encoded) == 11


def test_visual_tokens_are_those_of_the_model_with_zeros_behind(parts):
    model, processor = parts
    images = [[example("query", i).image for i in row] for row in ([0, 1], [2], [1, 0, 2])]
    tokens = Decoder(model, processor, 1).visual_tokens(images)
    assert tokens.shape == (3, 3, 5, 24)
    for row, own in zip(tokens, images):
        expected = model.encode_images(processor.pixel_values(own).unsqueeze(0))[0]
        torch.testing.assert_close(row[: len(own)], expected, rtol=1e-4, atol=1e-5)
        assert (row[len(own) :] == 0).all()


def test_a_blind_model_says_the_same_to_every_picture(parts):
    text = Text("Output:")
    prompts = [Document([example("query", i).image, text]) for i in range(6)]
    decoder = Decoder(*parts, 3)
    assert len(set(decoder(prompts, NEW))) > 1
    assert len(set(decoder(prompts, NEW, blind=True))) == 1
    blinded = parts[1].batch(prompts[:1], prompt=True)
    blinded["image_index"].fill_(-1)
    ids = parts[0].generate(**blinded, max_new_tokens=NEW, do_sample=False, eos_token_id=parts[1].end_of_chunk_token_id)
    said = parts[1].tokenizer.decode(ids[0, blinded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert decoder(prompts[:1], NEW, blind=True) == [said.split("<|endofchunk|>")[0].lstrip()]


def test_the_output_ends_at_the_end_of_the_chunk_and_begins_without_blanks(parts, monkeypatch):
    model, processor = parts
    said = processor.tokenizer("  a dog <|endofchunk|>a cat", add_special_tokens=False).input_ids
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor([said] * len(input_ids))], 1)
    )
    assert Decoder(model, processor, 2)([document(example("query", 0), [])], NEW) == ["a dog "]


def test_progress_counts_every_prompt(parts, prompts):
    done = []
    Decoder(*parts, 2)(prompts, NEW, on_progress=done.append)
    assert done == [2, 2, 1]


def test_what_cannot_be_decoded_is_refused(parts):
    model, processor = parts
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        Decoder(model, processor, 0)
    prompt = Document([example("query", 0).image, Text("Output:")], id="query/0")
    with pytest.raises(ValueError, match=r"document 'query/0' has \d+ tokens, more than the 2 that fit"):
        Decoder(model, processor, 1)([prompt], max_new_tokens=126)
    with pytest.raises(ValueError, match=r"gone\.jpg does not exist"):
        Decoder(model, processor, 1)([Document([Image("gone.jpg"), Text("Output:")])], NEW)
    model.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            Decoder(model, processor, 1)
    finally:
        model.eval()
