"""Templates of captions: the end of a prompt, and templates that are refused."""

import pytest

from flamingo import Document, FlamingoProcessor, Text
from flamingo.data.builders import InterleavedConfig
from flamingo.data.builders.interleaved import Interleaved
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.data.records.record import Record
from flamingo.utils.errors import UserError


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("Output: {caption}", "Output:", " a dog"),
        ("Output:{caption}", "Output:", "a dog"),
        ("A photo of {caption}", "A photo of", " a dog"),
        ("Caption:\n\n{caption}", "Caption:", "\n\na dog"),
        (" {caption}", "", " a dog"),
        ("{caption}", "", "a dog"),
    ],
)
def test_a_prompt_ends_before_the_blanks_of_the_caption(text, prompt, answer):
    template = CaptionTemplate(text)
    assert (template.prompt, template.answer("a dog")) == (prompt, answer)
    assert template.filled("a dog") == text.replace("{caption}", "a dog")


@pytest.mark.parametrize("text", ["", "Output:", "{caption} is seen.", "{caption}{caption}", "{Caption}"])
def test_a_template_without_the_caption_at_its_end_is_refused(text):
    with pytest.raises(UserError, match=r"\{caption\}"):
        CaptionTemplate(text)


def test_the_template_is_saved_with_the_processor(backbones, tmp_path):
    folders = (backbones / "clip_vision_model", backbones / "gpt2")
    plain = FlamingoProcessor.from_vision_text_pretrained(*folders)
    assert plain.template == CaptionTemplate("Output: {caption}")
    processor = FlamingoProcessor.from_vision_text_pretrained(*folders, caption_template="A photo of {caption}")
    processor.save_pretrained(tmp_path)
    assert FlamingoProcessor.from_pretrained(tmp_path).template == CaptionTemplate("A photo of {caption}")
    with pytest.raises(UserError, match=r"\{caption\}"):
        FlamingoProcessor.from_vision_text_pretrained(*folders, caption_template="A photo")


def test_a_document_has_the_template_and_trains_on_the_caption():
    config = InterleavedConfig(min_images=1, max_images=1, batch_size=1)
    records = [Record("a", Image("a.jpg"), ("a dog",), None)]
    template = CaptionTemplate("A photo of {caption}")
    document = Interleaved(config, records, seed=0, template=template)[0]
    expected = [Image("a.jpg"), Text("A photo of", train=False), Text(" a dog")]
    assert document == Document(expected)
