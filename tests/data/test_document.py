"""The assignment of texts to images."""

from pathlib import Path

import pytest
from PIL import Image as PILImage

from flamingo import Document, Image, Text
from flamingo.data.document import Chunk, EndOfChunk, SameChunk

A, B, C = (Image(f"{name}.jpg") for name in "abc")
ONE, TWO, THREE = Text("one"), Text("two"), Text("three")


def test_texts_belong_to_the_image_before_them():
    chunks = Document([ONE, A, TWO, B, THREE]).chunks()
    assert chunks == [Chunk(None, (ONE,)), Chunk(A, (TWO,)), Chunk(B, (THREE,))]


def test_or_to_the_image_after_them():
    chunks = Document([ONE, A, TWO, B, THREE]).chunks(next_image=True)
    assert chunks == [Chunk(A, (ONE,)), Chunk(B, (TWO,)), Chunk(None, (THREE,))]


@pytest.mark.parametrize("next_image", [False, True])
def test_an_image_beside_another_keeps_a_chunk_without_text(next_image):
    chunks = Document([A, B, ONE, C]).chunks(next_image)
    texts = [(chunk.image, chunk.texts) for chunk in chunks]
    assert texts == ([(A, ()), (B, ()), (C, (ONE,))] if next_image else [(A, ()), (B, (ONE,)), (C, ())])


@pytest.mark.parametrize("next_image", [False, True])
def test_texts_without_images_are_kept_apart_where_they_say_so(next_image):
    chunks = Document([ONE, EndOfChunk(), TWO, THREE]).chunks(next_image)
    assert chunks == [Chunk(None, (ONE,)), Chunk(None, (TWO, THREE))]


def test_images_of_the_same_chunk_are_joined_to_the_next():
    chunks = Document([A, SameChunk(), B, ONE, C, TWO]).chunks()
    assert chunks == [Chunk(A, (), joined=True), Chunk(B, (ONE,)), Chunk(C, (TWO,))]


def test_no_part_is_lost_either_way():
    parts = [ONE, A, B, TWO, EndOfChunk(), THREE, C]
    for next_image in (False, True):
        chunks = Document(parts).chunks(next_image)
        assert [chunk.image for chunk in chunks if chunk.image] == [A, B, C]
        assert [text for chunk in chunks for text in chunk.texts] == [ONE, TWO, THREE]


def test_the_last_images_are_those_that_share_the_last_text():
    pair = [Image("b.jpg"), SameChunk(), Image("c.jpg")]
    assert Document([A, *pair, Text("two"), A, Text("one")]).last_images() == [A]
    assert Document([A, Text("one"), *pair, Text("two")]).last_images() == [pair[0], pair[2]]
    assert Document([A, A]).last_images() == [A]
    assert Document([A, Text("one"), EndOfChunk(), Text("none")]).last_images() == []


def test_an_image_is_one_frame_or_several():
    assert Image("a.jpg").frames == ("a.jpg",)
    picture = PILImage.new("RGB", (2, 2))
    assert Image("a.jpg", picture).frames == ("a.jpg", picture)


def test_a_frame_may_lie_wherever_bytes_can_be_read():
    class Member:
        def read_bytes(self):
            return b""

    member = Member()
    assert Image(member, Path("a.jpg")).frames == (member, Path("a.jpg"))
    with pytest.raises(ValueError, match=r"frame.*bytes$"):
        Image(b"a.jpg")


def test_documents_and_images_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"Image.*frame"):
        Image()
    with pytest.raises(ValueError, match=r"frame.*list"):
        Image(["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match=r"Text.*int"):
        Text(5)
    with pytest.raises(ValueError, match="'page 3'"):
        Document([EndOfChunk()], id="page 3")
    with pytest.raises(ValueError, match="type str"):
        Document([A, "a caption"])
