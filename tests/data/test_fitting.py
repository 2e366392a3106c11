"""Captions that no document can hold are cut or left out, and counted, before the first document is made."""

import logging

import pytest
from PIL import Image as PILImage
from tokenizers import AddedToken
from transformers import AutoTokenizer

from flamingo import Document, FlamingoProcessor, Text
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.data.fitting import cut_at_sentence, fitting
from flamingo.data.records.record import Record, RecordList
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
def test_a_special_token_in_a_caption_leaves_its_image_out(special, backbones, processor, caplog):
    """Among them one that pads, and one that the tokenizer knows and gives no role."""
    tokenizer = AutoTokenizer.from_pretrained(backbones / "gpt2", pad_token="[PAD]")
    tokenizer.add_tokens([AddedToken("<|reserved|>", special=True)], special_tokens=True)
    processor = FlamingoProcessor(processor.image_processor, tokenizer)
    images = source(["a dog"], ["a cat", f"a{special}cat"], ["a </ s> bird"], [f"{special}"])
    with caplog.at_level(logging.WARNING):
        fitted = fitting(images, processor)
    assert [image.id for image in fitted.records] == ["0", "2"]
    assert fitted.shortened == {}
    assert fitted.skipped == dict.fromkeys(("1", "3"), f"a caption has a special token: {special}")
    assert "(2, the first 1)" in caplog.text
    for caption in images[1].captions[1:]:
        with pytest.raises(UserError, match="special token"):
            processor.encode(Document([Text(caption)]))


def length(caption, processor):
    """Tokens of a document of one image with this caption."""
    document = Document([Image(PILImage.new("RGB", (4, 3))), Text(CaptionTemplate().filled(caption))])
    return len(processor.encode(document, pixels=False, max_length=10_000).input_ids)


def test_a_long_caption_is_cut_after_the_last_sentence_that_fits(processor, caplog):
    limit = processor.tokenizer.model_max_length
    sentences = [f"A{WORD * 6} {number}." for number in range(40)]
    images = source([" ".join(sentences), "a dog"], ["a cat"], [WORD * 200], [WORD * 200, "a bird"])
    for new_tokens in (0, 40):
        with caplog.at_level(logging.WARNING):
            fitted = fitting(images, processor, new_tokens)
        captions = {record.id: record.captions for record in fitted.records}
        assert captions.keys() == {"0", "1", "3"}
        assert captions["1"] == ("a cat",) and captions["3"] == ("a bird",)
        cut, whole = captions["0"]
        assert whole == "a dog"
        number = cut.count(".")
        assert cut == " ".join(sentences[:number])
        assert length(cut, processor) + new_tokens <= limit
        assert length(" ".join(sentences[: number + 1]), processor) + new_tokens > limit - 2
        assert fitted.shortened.keys() == {"0", "3"} and fitted.skipped.keys() == {"2"}
        assert fitted.skipped["2"].startswith("a caption is too long: ")
        assert "shortened the captions of 2 images: a caption is cut at a sentence (2, the first 0)" in caplog.text
        assert "left out 1 images" in caplog.text


def test_skip_leaves_out_an_image_whose_caption_is_too_long(processor):
    images = source([f"A dog. {WORD * 200}.", "a dog"], ["a cat"])
    fitted = fitting(images, processor, too_long="skip")
    assert [record.captions for record in fitted.records] == [("a cat",)]
    assert fitted.skipped.keys() == {"0"} and fitted.shortened == {}


@pytest.mark.parametrize(
    ("caption", "sentences"),
    [
        ("At 3.5 km. Then", "At 3.5 km."),
        ('He said "Go!" Then', 'He said "Go!"'),
        ("一只狗。一只猫", "一只狗。"),
        ("「犬だ。」猫", "「犬だ。」"),
        ("Wirklich?! Ja", "Wirklich?!"),
        ("no end", None),
    ],
)
def test_a_sentence_ends_with_its_marks_and_quotes(caption, sentences):
    assert cut_at_sentence(f"{caption}{WORD * 200}", len, 30) == sentences


def test_the_text_of_the_template_takes_room(processor):
    caption = f"A.{WORD * 100}."
    tokens = processor.chunk_length(CaptionTemplate().filled(caption))
    for words, captions in ((1, (caption,)), (60, ("A.",))):
        template = CaptionTemplate("dog " * words + "{caption}")
        fitted = fitting(source([caption]), processor, processor.room - tokens - 20, template=template)
        assert fitted.records[0].captions == captions


def test_nothing_is_left_out_where_all_fit_and_none_is_an_error(processor):
    images = source(["a dog"], ["a cat", "cats"])
    fitted = fitting(images, processor)
    assert list(fitted.records) == list(images) and fitted.skipped == fitted.shortened == {}
    with pytest.raises(UserError, match=r"0 of 3 images.*too long"):
        fitting(source(*[[WORD * 200]] * 3), processor)
