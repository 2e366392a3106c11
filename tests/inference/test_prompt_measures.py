"""The parts of a prompt that its last token attends to: by hand, in any batch."""

import pytest
import torch

from flamingo import Document, Image, Text
from flamingo.data.document import EndOfChunk, SameChunk
from flamingo.evaluation.prompts import build_prompt
from flamingo.inference.engine import AttentionKey, InspectingEngine
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.inference.prompt_measures import chunk_of_tokens, parts_of_tokens
from flamingo.measure_rows import (
    DEMONSTRATION_IMAGE,
    DEMONSTRATION_TEXT,
    FIRST_TOKEN,
    GATED_ENTROPY,
    GATED_NORM,
    QUERY_IMAGE,
    QUERY_TEXT,
    SELF_ATTENTION,
)
from tests.evaluation.fake import TextEngine, example, model_and_processor
from tests.tiny import PREFIX

PICTURE = Image("somewhere.png")
END, MARKER = 7, 8


def parts(prompt, ids, image_index):
    ids = torch.tensor(ids)
    chunks = chunk_of_tokens(prompt, ids, torch.tensor(image_index), END)
    return parts_of_tokens(chunks, (ids == MARKER).tolist())


def test_tokens_are_parts_of_demonstrations_and_query():
    prompt = Document([PICTURE, Text("a"), PICTURE, Text("b"), PICTURE, Text("c")])
    far, near = (DEMONSTRATION_TEXT, 2), (DEMONSTRATION_TEXT, 1)
    # Visual tokens take the place of a marker: two for each image.
    ids = [0, MARKER, MARKER, 1, END, MARKER, MARKER, 2, END, MARKER, MARKER, 3]
    assert parts(prompt, ids, [-1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]) == [
        *((FIRST_TOKEN, None), (DEMONSTRATION_IMAGE, 2), (DEMONSTRATION_IMAGE, 2), far, far),
        *((DEMONSTRATION_IMAGE, 1), (DEMONSTRATION_IMAGE, 1), near, near),
        *((QUERY_IMAGE, None), (QUERY_IMAGE, None), (QUERY_TEXT, None)),
    ]


def test_images_of_one_text_are_one_demonstration():
    pair = [PICTURE, SameChunk(), PICTURE]
    prompt = Document([*pair, Text("a"), *pair, Text("b")])
    ids = [0, MARKER, MARKER, 1, END, MARKER, MARKER, 2]
    assert parts(prompt, ids, [-1, 0, 1, 1, 1, 2, 3, 3]) == [
        *((FIRST_TOKEN, None), (DEMONSTRATION_IMAGE, 1), (DEMONSTRATION_IMAGE, 1)),
        *((DEMONSTRATION_TEXT, 1), (DEMONSTRATION_TEXT, 1)),
        *((QUERY_IMAGE, None), (QUERY_IMAGE, None), (QUERY_TEXT, None)),
    ]


def test_the_first_token_is_a_part_even_if_it_is_a_marker():
    prompt = Document([PICTURE, Text("a")])
    assert parts(prompt, [MARKER, 1], [0, 0]) == [(FIRST_TOKEN, None), (QUERY_TEXT, None)]


def test_demonstrations_without_images_end_at_their_ends():
    """The first token may be the same token, and the lead of a marker sees no image yet."""
    prompt = Document([EndOfChunk(), Text("a"), EndOfChunk(), Text("b"), PICTURE, Text("c")])
    ids = [END, 1, END, 2, 2, END, 9, MARKER, 3]
    far, near = (DEMONSTRATION_TEXT, 2), (DEMONSTRATION_TEXT, 1)
    assert parts(prompt, ids, [-1, -1, -1, -1, -1, -1, -1, 0, 0]) == [
        *((FIRST_TOKEN, None), far, far, near, near, near, near, (QUERY_IMAGE, None), (QUERY_TEXT, None))
    ]


@pytest.mark.parametrize("config", [{}, PREFIX], ids=["cross_attention", "prefix"])
def test_measures_of_a_prompt_are_the_same_in_any_batch(backbones, config):
    """With queries of zeros a layer attends evenly: the share of a part is that of its tokens."""
    model, processor = model_and_processor(backbones, "llama", **config)
    model.language_model.model.layers[2].self_attn.q_proj.weight.data.zero_()
    shown = [example("support", i, references=1) for i in range(3)]
    prompts = []
    for number, (shots, images) in enumerate([(2, True), (2, False), (0, True), (3, True)]):
        prompts.append(build_prompt(example("query", number), shown[:shots], images))
    engine = FlamingoEngine(model, processor, 3)
    assert isinstance(engine, InspectingEngine) and not isinstance(TextEngine(), InspectingEngine)
    measures = engine.attention(prompts)
    one_by_one = [FlamingoEngine(model, processor, 1).attention([prompt])[0] for prompt in prompts]
    for found, alone, prompt in zip(measures, one_by_one, prompts, strict=True):
        assert found == pytest.approx(alone, rel=1e-3, abs=1e-5)
        for layer in range(4):
            shares = [value for key, value in found.items() if key[:2] == (SELF_ATTENTION, layer)]
            assert sum(shares) == pytest.approx(1, abs=1e-5)
        gated = {key[:2] for key in found if key.name in (GATED_ENTROPY, GATED_NORM)}
        layers = () if config else (1, 3)
        assert gated == {(name, layer) for name in (GATED_ENTROPY, GATED_NORM) for layer in layers}
        ids = processor.encode(prompt, prompt=True, pixels=False).input_ids
        assert found[AttentionKey(SELF_ATTENTION, 2, FIRST_TOKEN)] == pytest.approx(1 / len(ids), rel=1e-3)
    tokens_per_image = 4 if config else 1
    ids = processor.encode(prompts[0], prompt=True, pixels=False).input_ids
    share = tokens_per_image / len(ids)
    for key in ((DEMONSTRATION_IMAGE, 2), (DEMONSTRATION_IMAGE, 1), (QUERY_IMAGE, None)):
        assert measures[0][AttentionKey(SELF_ATTENTION, 2, *key)] == pytest.approx(share, rel=1e-3)
    ends = (ids == processor.end_of_chunk_token_id).nonzero().flatten().tolist()
    for distance, tokens in ((2, ends[0]), (1, ends[1] - ends[0])):
        expected = (tokens - tokens_per_image) / len(ids)
        key = AttentionKey(SELF_ATTENTION, 2, DEMONSTRATION_TEXT, distance)
        assert measures[0][key] == pytest.approx(expected, rel=1e-3)
    assert AttentionKey(SELF_ATTENTION, 2, DEMONSTRATION_IMAGE, 1) not in measures[1]


def test_visual_tokens_of_measures_come_from_the_cache(backbones, monkeypatch):
    model, processor = model_and_processor(backbones)
    engine = FlamingoEngine(model, processor, 2)
    prompts = [build_prompt(example("query", i), [example("support", i)]) for i in range(2)]
    engine.generate(prompts, 1)
    monkeypatch.setattr(model, "encode_images", None)
    assert len(engine.attention(prompts)) == 2
