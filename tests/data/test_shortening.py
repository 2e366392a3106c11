"""Documents that are too long lose their first images, equally in all documents of a group."""

import pytest
from PIL import Image as PILImage

from flamingo import Document, FlamingoProcessor, Text
from flamingo.data.document import EndOfChunk, Image
from flamingo.data.encode import EncodedDocuments, make_batch
from flamingo.data.shortening import TooManyTokensError, encode_shortened, without_first_image
from flamingo.utils.errors import UserError

#: Tokens of BOS, EOS, and of the marker and the end of a chunk of each image.
AROUND, PER_IMAGE = 2, 2


@pytest.fixture
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


def document(*words):
    """An image for each number, with a text of that many words."""
    parts = []
    for shade, number in enumerate(words):
        parts += [
            Image(PILImage.new("RGB", (4, 3), (shade, 0, 0))),
            Text("Output:", train=False),
            Text(" dog" * number),
        ]
    return Document(parts, id="long")


def shades(document):
    return [part.frames[0].getpixel((0, 0))[0] for part in document.parts if isinstance(part, Image)]


def test_all_before_the_second_image_goes():
    text = Text("before")
    with_text = Document([text, *document(1, 2, 3).parts, EndOfChunk(), Text("after")], id="a")
    shorter = without_first_image(with_text)
    assert shades(shorter) == [1, 2] and shorter.parts[-1] == Text("after") and text not in shorter.parts
    assert shorter.id == "a"


def test_images_are_dropped_until_all_documents_fit_and_no_more():
    def encode(documents):
        if max(len(one.parts) for one in documents) > 6:
            raise TooManyTokensError("too long")
        return [shades(one) for one in documents]

    assert encode_shortened([document(1, 1), document(1, 1)], encode) == ([[0, 1]] * 2, 0)
    longer = Document([*document(1, 1, 1).parts, Text("more")])
    assert encode_shortened([document(1, 1, 1), longer], encode) == ([[2]] * 2, 2)
    with pytest.raises(TooManyTokensError):
        encode_shortened([Document([*document(1).parts, *[Text("a")] * 6])], encode)


def test_long_documents_lose_their_first_images_and_are_counted(processor):
    length = len(processor.encode(document(3, 4), pixels=False).input_ids)
    documents = [document(3, 4), document(9, 3, 4), document(9, 9, 3, 4)]
    groups = EncodedDocuments(documents, processor, shorten_to=length)
    encoded = [groups[position] for position in range(3)]
    assert [group.dropped_images for group in encoded] == [0, 1, 2]
    for group in encoded:
        [example] = group.examples
        assert example.input_ids.tolist() == encoded[0].examples[0].input_ids.tolist()
        assert len(example.pixel_values) == 2
    assert encoded[2].examples[0].pixel_values[0, 0, 0, 0, 0] == 2  # the first image that is left is the third
    assert make_batch(encoded, 0).dropped_images == 3


def test_documents_that_share_images_lose_the_same_ones(processor):
    length = len(processor.encode(document(9, 4), pixels=False).input_ids)
    versions = [document(1, 1, 1), document(20, 9, 4)]
    group = EncodedDocuments(versions, processor, captions_per_image=2, shorten_to=length)[0]
    assert group.dropped_images == 1
    assert [int(example.image_index.max()) for example in group.examples] == [1, 1]
    assert len(group.examples[0].pixel_values) == 2


def test_a_long_document_without_a_shorter_limit_is_an_error(processor):
    documents = [document(*[9] * 40)]
    with pytest.raises(UserError, match=r"'long' has .* tokens"):
        EncodedDocuments(documents, processor)[0]
    with pytest.raises(UserError, match=r"'long' has .* tokens"):
        EncodedDocuments([document(200)], processor, shorten_to=processor.tokenizer.model_max_length)[0]
