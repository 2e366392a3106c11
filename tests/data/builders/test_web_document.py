"""Pages become documents: windows, filters, and what is left out."""

import random
from collections import Counter

import numpy as np
import pytest

from flamingo import Document, FlamingoProcessor, Text
from flamingo.data import drops
from flamingo.data.builders import web_document
from flamingo.data.builders.web_document import WebDocument
from flamingo.data.document import EndOfChunk, SameChunk
from flamingo.data.drops import Dropped
from flamingo.data.pages.page import Page, SectionBreak
from flamingo.utils.errors import UserError
from tests.data.page_makers import image, missing, page, preset, unplaced_page, windows


@pytest.fixture(scope="module")
def processor(backbones):
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    processor.tokenizer.model_max_length = 1024
    return processor


@pytest.fixture(scope="module")
def prefix_processor(backbones):
    """An image takes three positions."""
    return FlamingoProcessor.from_vision_text_pretrained(
        backbones / "clip_vision_model", backbones / "gpt2", tokens_per_image=3
    )


def letters(number):
    """A text of this many tokens."""
    return "~" * number


def grays(processor, document):
    """The grays of the pictures that the document shows."""
    example = processor.encode(document, as_bytes=True)
    return example.pixel_values[:, 0, 0, 0, 0].tolist()


def shown(processor, document):
    """(token, the gray of the image that it sees) for every token."""
    example = processor.encode(document, as_bytes=True)
    pictures = [*example.pixel_values[:, 0, 0, 0, 0].tolist(), None]
    tokens = processor.tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
    return [(token, pictures[number]) for token, number in zip(tokens, example.image_index.tolist())]


#: 40 tokens: BOS, 4 of text, the end of the chunk, an image at 6, 12 of text, the end, an image at 20, 17 of text, the
#: end of the chunk, EOS.
FORTY = page(letters(4), image(6), letters(12), image(20), letters(17))


@pytest.fixture
def drawn_weights(monkeypatch):
    """The weights of the starts that were drawn."""
    seen = []

    class Recorder(random.Random):
        def choices(self, population, weights):
            seen.append(weights)
            return super().choices(population, weights)

    monkeypatch.setattr(web_document.random, "Random", Recorder)
    return seen


@pytest.mark.parametrize(
    ("window_start", "expected"),
    [
        # No window without an image: from 21 on there is none.
        ("before_images", 6 * [3] + [0, 1] + 12 * [3] + 20 * [0]),
        ("uniform", 6 * [1] + [0] + 13 * [1] + 20 * [0]),
        ("beginning", [1] + 39 * [0]),
    ],
)
def test_starts_of_a_page_of_40_tokens_weigh_as_by_hand(window_start, expected, processor, drawn_weights):
    config = windows(16, min_tokens=5, window_start=window_start)
    assert isinstance(WebDocument(config, processor, 0).document(FORTY, 0), Document)
    assert drawn_weights == [expected]


def test_a_window_is_a_slice_of_the_pages_tokens(processor):
    config = windows(16, window_start="uniform")
    builder = WebDocument(config, processor, 0)
    whole = processor.encode(WebDocument(windows(64), processor, 0).document(FORTY, 0)).input_ids.tolist()
    starts = set()
    for position in range(15):
        document = builder.document(FORTY, position)
        start = document.window.start
        ids = processor.encode(document).input_ids.tolist()
        assert ids == (whole[:16] if start == 0 else whole[:1] + whole[start : start + 15])
        visible = [gray for gray in (6, 20) if start <= gray < start + (16 if start == 0 else 15)]
        assert grays(processor, document) == visible
        starts.add(start)
    assert len(starts) > 5


def test_windows_are_a_function_of_seed_and_position(processor):
    config = preset("m3w_flamingo", max_tokens=16)
    documents = [WebDocument(config, processor, 3).document(FORTY, position) for position in range(12)]
    again = WebDocument(config, processor, 3)
    assert [again.document(FORTY, position) for position in reversed(range(12))] == documents[::-1]
    assert len({document.window.start for document in documents}) > 4
    assert len({type(document.parts[0]) for document in documents}) == 2  # p_next is 0.5
    assert [WebDocument(config, processor, 4).document(FORTY, position) for position in range(12)] != documents


def test_no_window_cuts_an_image(prefix_processor):
    parts = [letters(7), image(10), letters(5), image(20), image(30), letters(9), image(40), letters(2)]
    builder = WebDocument(windows(14, window_start="uniform"), prefix_processor, 0)
    lengths = set()
    for position in range(15):
        document = builder.document(page(*parts), position)
        example = prefix_processor.encode(document, as_bytes=True)
        markers = (example.input_ids == prefix_processor.image_token_id).sum()
        assert markers == 3 * len(example.pixel_values) and len(example.input_ids) <= 14
        lengths.add(len(example.input_ids))
    assert max(lengths) == 14 and min(lengths) < 14


def test_a_window_has_its_first_images_and_the_texts_of_all(processor):
    parts = []
    for number in range(8):
        parts += [image(number), letters(3)]
    builder = WebDocument(windows(24, max_images=2, window_start="uniform"), processor, 0)
    numbers_of_images = set()
    for position in range(10):
        document = builder.document(page(*parts), position)
        example = processor.encode(document, as_bytes=True)
        # BOS, then an image, three letters and the end of the chunk for each number.
        first = (document.window.start + 3) // 5
        assert grays(processor, document) == list(range(first, min(first + 2, 8)))
        length = 24 if document.window.start == 0 else 23
        in_window = [number for number in range(8) if 0 <= 1 + 5 * number - document.window.start < length]
        assert document.drops[drops.IMAGE_OVER_LIMIT] == max(0, len(in_window) - 2)
        assert len(example.input_ids) == 24 or document.window.start > 5 * (6 - 2)
        numbers_of_images.add(len(in_window))
    assert len(numbers_of_images) > 2


def test_left_out_images_make_room_for_text(prefix_processor):
    """The fourth image begins at 17 and would cut the window there, if it were kept."""
    parts = [image(1), letters(2), image(2), letters(2), image(3), image(4), letters(20)]
    document = WebDocument(windows(19, max_images=2), prefix_processor, 0).document(page(*parts), 0)
    example = prefix_processor.encode(document, as_bytes=True)
    assert len(example.input_ids) == 19 and grays(prefix_processor, document) == [1, 2]


@pytest.mark.parametrize("p_next", [0.0, 1.0])
def test_texts_belong_to_the_image_of_p_next(p_next, processor):
    a, b = image(1), image(2)
    builder = WebDocument(windows(64, p_next=p_next), processor, 0)
    document = builder.document(page("x", a, "y", b, "z"), 0)
    reference = Document([Text("x"), a.image, Text("y"), b.image, Text("z")])
    expected = processor.encode(reference, next_image=p_next == 1)
    example = processor.encode(document)
    assert example.input_ids.tolist() == expected.input_ids.tolist()
    assert example.image_index.tolist() == expected.image_index.tolist()
    assert example.labels.tolist() == expected.labels.tolist()


def test_context_has_no_end_of_chunk_and_is_not_trained_on(processor):
    a = image(1)
    document = WebDocument(windows(64, leading_text="context"), processor, 0).document(page("x", "w", a, "y"), 0)
    assert document.parts == (Text("x w", train=False), SameChunk(), a.image, Text("y"))


def test_texts_join_where_an_image_is_left_out(processor):
    a = image(1)
    builder = WebDocument(windows(64, text_separator="\n\n"), processor, 0)
    document = builder.document(page(a, "x", missing(), "y", "z"), 0)
    assert document.parts == (a.image, Text("x\n\ny\n\nz")) and document.drops == {"image missing": 1}


def test_texts_after_a_section_break_see_no_image(processor):
    a = image(9)
    whole = page(a, "x", SectionBreak(), "y")
    document = WebDocument(windows(64), processor, 0).document(whole, 0)
    assert document.parts == (a.image, Text("x"), EndOfChunk(), Text("y"))
    assert shown(processor, document)[-3:] == [("y", None), ("<|endofchunk|>", None), ("</s>", None)]
    section = WebDocument(windows(64, sections="one"), processor, 0).document(whole, 0)
    assert section.parts == (a.image, Text("x"))


def test_images_are_in_the_order_of_their_texts(processor):
    whole = unplaced_page(["x", "y", "z"], [image(10), image(20), image(30)], [2, 0, 1])
    document = WebDocument(preset("mmc4_openflamingo"), processor, 0).document(whole, 0)
    assert shown(processor, document)[1:] == [
        ("<image>", 20), ("x", 20), ("<|endofchunk|>", 20),
        ("<image>", 30), ("y", 30), ("<|endofchunk|>", 30),
        ("<image>", 10), ("z", 10), ("<|endofchunk|>", 10), ("</s>", 10),
    ]  # fmt: skip


def test_images_with_and_without_places_meet_on_a_page(processor):
    parts = ("x", image(50), "y", "z")
    whole = Page("page", parts, unplaced=(image(10),), similarity=np.array([[0.0, 0.1, 0.3]]))
    document = WebDocument(windows(64), processor, 0).document(whole, 0)
    seen = shown(processor, document)
    assert ("x", None) in seen and ("y", 50) in seen and ("z", 10) in seen


def test_a_special_token_is_dropped_or_escaped(processor):
    a = image(1)
    whole = page("w", a, "a <image> b", "c</s>d<|endofchunk|>", "e")
    dropped = WebDocument(windows(64), processor, 0).document(whole, 0)
    assert dropped.parts[-1] == Text("e")
    assert dropped.drops == {drops.TEXT_WITH_SPECIAL_TOKEN: 2}
    escaped = WebDocument(windows(64, special_tokens="escape"), processor, 0).document(whole, 0)
    assert escaped.parts[-1] == Text("a < image> b c< /s>d< |endofchunk|> e")
    assert escaped.drops == {drops.TEXT_ESCAPED: 2}
    assert grays(processor, escaped) == [1]


def test_an_image_never_finds_a_text_that_is_left_out(processor):
    whole = unplaced_page(["x", "<image>", "y"], [image(10), image(20)], [1, 2])
    document = WebDocument(preset("mmc4_openflamingo", single_image_prob=1.0), processor, 0).document(whole, 0)
    assert grays(processor, document) == [20]
    assert document.drops == {drops.TEXT_WITH_SPECIAL_TOKEN: 1, drops.IMAGE_NOT_SIMILAR: 1}


SMALL = image(1, num_bytes=10_999)
LARGE = image(2, num_bytes=11_000)
LONG = letters(1100)
NOT_SIMILAR = {drops.IMAGE_NOT_SIMILAR: 1}

#: (preset, other values of its keys, page, what is left out).
DROPPED = [
    ("mmc4_openflamingo", {}, page("x", "y"), {drops.NO_IMAGE: 1}),
    ("mmc4_openflamingo", {}, unplaced_page(["x"], [missing()], [0]), {drops.NO_IMAGE: 1, "image missing": 1}),
    ("mmc4_openflamingo", {}, unplaced_page(["x"], [SMALL], [0]), {drops.NO_IMAGE: 1, drops.IMAGE_TOO_SMALL: 1}),
    ("mmc4_openflamingo", {}, unplaced_page(["x"], [LARGE], [0], 0.23), {drops.NO_IMAGE: 1, **NOT_SIMILAR}),
    ("mmc4_openflamingo", {}, unplaced_page([" "], [LARGE], [0]), {drops.NO_TEXT: 1}),
    ("mmc4_openflamingo", {}, unplaced_page(["<image>"], [LARGE], [0]), {
        drops.NO_IMAGE: 1, drops.TEXT_WITH_SPECIAL_TOKEN: 1, **NOT_SIMILAR
    }),
    ("mmc4_openflamingo", {"single_image_prob": 0.0}, unplaced_page(["x"], [LARGE], [0]), {drops.SINGLE_IMAGE: 1}),
    ("mmc4_openflamingo", {}, unplaced_page([letters(255), "x"], [LARGE], [1]), {drops.TOO_FEW_IMAGES: 1}),
    ("mmc4_openflamingo", {}, unplaced_page(["x", ""], [LARGE], [1]), {drops.NO_TEXT_AFTER_IMAGES: 1}),
    ("mmc4_openflamingo", {"missing_images": "drop_page"}, unplaced_page(["x"], [missing()], [0]), {
        drops.MISSING_IMAGE_ON_PAGE: 1, "image missing": 1
    }),
    ("obelics_m4", {}, page(missing(), "x"), {drops.NO_IMAGE: 1, "image missing": 1}),
    ("obelics_m4", {}, page(image(), image()), {drops.IMAGES_AT_THE_END: 1}),
    ("obelics_m4", {}, page("x", image(), image()), {drops.IMAGES_AT_THE_END: 1}),
    ("obelics_m4", {}, page(image(), image(), image(), "x"), {drops.IMAGES_IN_A_ROW: 1}),
    ("obelics_m4", {}, page(image(), "</s> <image>"), {drops.NO_TEXT: 1, drops.TEXT_WITH_SPECIAL_TOKEN: 1}),
    ("obelics_m4", {}, page("x", image()), {drops.NO_TEXT_AFTER_IMAGES: 1}),
    ("obelics_m4", {}, page(image(), "x", SectionBreak(), image()), None),
    ("obelics_m4", {"min_tokens": 6}, page(image(), "x"), {drops.TOO_FEW_TOKENS: 1}),
    ("obelics_m4", {}, page(image(), "x"), None),
    ("m3w_flamingo", {}, page("x"), {drops.NO_IMAGE: 1}),
    ("m3w_flamingo", {}, page(image(), "x" * 999_999, "yz"), {drops.TOO_MUCH_TEXT: 1}),
    ("m3w_flamingo", {"p_next": 0.0}, page(LONG, image()), {drops.NO_TEXT_AFTER_IMAGES: 1}),
    ("m3w_flamingo", {"p_next": 0.0}, page("x", image()), {drops.NO_TEXT_AFTER_IMAGES: 1}),
    ("m3w_flamingo", {"p_next": 1.0}, page("x", image()), None),
    ("m3w_flamingo", {"min_images": 2}, page(image(), LONG, image(), "x"), {drops.TOO_FEW_IMAGES: 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "whole", "expected"), DROPPED)
def test_a_page_is_left_out_for_its_reason(name, changes, whole, expected, processor):
    builder = WebDocument(preset(name, **changes), processor, 1)
    result = builder.document(whole, 0)
    assert isinstance(result, Document if expected is None else Dropped)
    assert result.drops == Counter(expected or {})


def test_half_of_the_single_images_are_kept(processor):
    builder = WebDocument(preset("mmc4_openflamingo"), processor, 0)
    whole = unplaced_page(["x"], [LARGE], [0])
    kept = [isinstance(builder.document(whole, position), Document) for position in range(60)]
    assert 20 < sum(kept) < 40


def test_filters_spare_pages_whose_images_have_places(processor):
    sequence = page("x", SMALL, "y")
    keys = {"single_image_prob": 0.0, "min_image_bytes": 11_000}
    assert isinstance(WebDocument(preset("mmc4_openflamingo", **keys), processor, 0).document(sequence, 0), Document)
    dropped = WebDocument(preset("mmc4_openflamingo", **keys, filter_placed=True), processor, 0).document(sequence, 0)
    assert dropped.drops == {drops.NO_IMAGE: 1, drops.IMAGE_TOO_SMALL: 1}


def test_windows_that_do_not_fit_are_refused(processor, prefix_processor):
    with pytest.raises(UserError, match="max_tokens"):
        WebDocument(windows(1025), processor, 0)
    with pytest.raises(UserError, match="max_tokens"):
        WebDocument(windows(3), prefix_processor, 0)
