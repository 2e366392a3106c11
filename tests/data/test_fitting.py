"""Captions that no document can hold are found before the first one is made, left out and counted by reason."""

import itertools
import logging

import pytest
from PIL import Image as PILImage
from tokenizers import AddedToken
from transformers import AutoTokenizer

from flamingo import Document, FlamingoProcessor, Text
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.data.fitting import fitting
from flamingo.data.record import Record, RecordList
from flamingo.utils.errors import UserError

WORD = " dog"


@pytest.fixture
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


def source(*captions):
    """An image for each group of captions, called 0, 1, ..."""
    picture = Image(PILImage.new("RGB", (4, 3)))
    return RecordList([Record(str(i), picture, tuple(own), None) for i, own in enumerate(captions)], {})


@pytest.mark.parametrize("special", ["</s>", "<s>", "<image>", "<|endofchunk|>", "[PAD]", "<|reserved|>"])
def test_an_image_with_a_special_token_in_one_of_its_captions_is_left_out(special, backbones, processor, caplog):
    """Among them one that pads, and one that the tokenizer knows and gives no role."""
    tokenizer = AutoTokenizer.from_pretrained(backbones / "gpt2", pad_token="[PAD]")
    tokenizer.add_tokens([AddedToken("<|reserved|>", special=True)], special_tokens=True)
    processor = FlamingoProcessor(processor.image_processor, tokenizer)
    images = source(["a dog"], ["a cat", f"a{special}cat"], ["a </ s> bird"], [f"{special}"])
    with caplog.at_level(logging.WARNING):
        kept, skipped = fitting(images, processor, images=2)
    assert [image.id for image in kept] == ["0", "2"]
    assert skipped == dict.fromkeys(("1", "3"), f"a caption has a special token: {special}")
    assert "(2, the first 1)" in caplog.text
    for caption in images[1].captions[1:]:
        with pytest.raises(UserError, match="special token"):
            processor.encode(Document([Text(caption)]))


def test_what_stays_fits_into_any_document_and_no_more_than_that_is_left_out(processor):
    lengths = [1, 9, 3, 30, 2, 8, 90, 40, 5, 7]
    images = source(*([WORD * n, "x"] for n in lengths))
    limit = processor.tokenizer.model_max_length
    for most, new_tokens in ((1, 0), (2, 0), (3, 0), (3, 40), (4, 20), (8, 0)):
        kept, skipped = fitting(images, processor, most, new_tokens)
        shown = [image for image in images if image.id not in skipped]
        assert [image.id for image in kept] == [image.id for image in shown]

        def length(some):
            parts = [
                part for image in some for part in (image.image, Text(CaptionTemplate().filled(image.captions[0])))
            ]
            return len(processor.encode(Document(parts), pixels=False, max_length=10_000).input_ids)

        assert all(length(some) + new_tokens <= limit for some in itertools.combinations(shown, min(most, len(shown))))
        if skipped:  # with the shortest of them there would be a document that is too long
            shortest = min((images[int(id)] for id in skipped), key=lambda image: len(image.captions[0]))
            longest = sorted(shown, key=lambda image: -len(image.captions[0]))[: most - 1]
            assert length([shortest, *longest]) + new_tokens > limit - 2


def test_nothing_is_left_out_where_all_fit_and_an_error_says_so_where_none_does(processor):
    images = source(["a dog"], ["a cat", "cats"])
    kept, skipped = fitting(images, processor, images=2)
    assert list(kept) == list(images) and skipped == {}
    with pytest.raises(UserError, match="100 images"):
        fitting(source(*[[WORD * 100]] * 100), processor, images=100)
