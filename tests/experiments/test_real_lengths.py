"""Pages and pairs of the GPU check: the same documents padded as OpenFlamingo pads them, and packed."""

import pytest

from experiments.gpu_check.big_model import TINY, build_processor
from experiments.gpu_check.real_lengths import PAGES, PAIRS, MixedUpdate, make_documents, packed, padded


@pytest.fixture(scope="module")
def processor():
    return build_processor(TINY)


@pytest.fixture(scope="module")
def documents(processor):
    return make_documents(MixedUpdate(pages=3, pairs=12), TINY, processor)


def test_documents_have_the_lengths_of_the_tables(documents, processor):
    assert documents.tokens == sum(tokens for tokens, _ in PAGES[:3]) + sum(PAIRS) + PAIRS[0] + PAIRS[1]
    assert documents.images == sum(images for _, images in PAGES[:3]) + 12
    for example in documents.pages + documents.pairs:
        markers = int((example.input_ids == processor.image_token_id).sum())
        assert markers == len(example.pixel_values) == int(example.image_index.max()) + 1


def test_padding_is_that_of_open_flamingo(documents, processor):
    pages, pairs = padded(documents, processor.tokenizer.pad_token_id)
    assert pages["input_ids"].shape == (3, 256) and pairs["input_ids"].shape == (12, 32)
    assert pages["pixel_values"].shape[:2] == (3, 6) and pairs["pixel_values"].shape[:2] == (12, 1)
    assert not pages["pixel_values"][1, 2:].any()
    for batch in (pages, pairs):
        assert batch["labels"][batch["attention_mask"] == 0].eq(-100).all()
    assert int(pages["attention_mask"].sum() + pairs["attention_mask"].sum()) == documents.tokens


def test_packed_rows_hold_the_same_tokens_and_no_empty_image(documents, processor):
    pages, pairs = packed(documents, TINY, processor)
    assert pairs.tensors["input_ids"].shape == (1, sum(PAIRS) + PAIRS[0] + PAIRS[1])
    assert pages.sizes.tokens + pairs.sizes.tokens == documents.tokens
    places = len(pages.tensors["image_places"]) + len(pairs.tensors["image_places"])
    assert places == documents.images
