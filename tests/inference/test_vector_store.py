"""Stored vectors are those of the dual encoder, are computed once, and belong to one encoder."""

import pytest
import torch
from PIL import Image as PILImage

from flamingo.data.document import Image
from flamingo.inference import vector_store
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.inference.vector_store import VectorStore
from flamingo.utils.errors import UserError
from tests.helpers import tiny_clip
from tests.helpers.forked import values_of_processes

TEXTS = ["a dog", "two red balls", "a cat"]


@pytest.fixture
def images():
    return [Image(PILImage.new("RGB", (20, 24), color)) for color in ("red", "blue")]


@pytest.fixture
def encoder(tmp_path):
    tiny_clip.save(tmp_path / "clip")
    return str(tmp_path / "clip")


def test_vectors_are_the_encoders_and_are_computed_once(tmp_path, images, encoder, monkeypatch):
    store = VectorStore(tmp_path / "vectors", encoder, batch_size=2)
    assert (store.add_images(images), store.add_texts([*TEXTS, TEXTS[0]])) == (2, 3)
    dual_encoder = DualEncoder(encoder)
    monkeypatch.setattr(vector_store, "DualEncoder", None)  # a stored vector needs no encoder
    again = VectorStore(tmp_path / "vectors", encoder)
    assert (again.add_images(images), again.add_texts(TEXTS[::-1])) == (0, 0)
    torch.testing.assert_close(again.images(images[::-1]), dual_encoder.image_vectors(images[::-1]))
    order = [TEXTS[2], TEXTS[0], TEXTS[2]]
    torch.testing.assert_close(again.texts(order), dual_encoder.text_vectors(order))


@pytest.mark.full
def test_processes_write_the_vectors_of_one(tmp_path, images, encoder):
    def add(folder):
        store = VectorStore(folder, encoder, batch_size=1)
        return store.add_images(images), store.add_texts(TEXTS[:1]), store.add_texts(TEXTS)

    assert values_of_processes(2, add, tmp_path / "two") == [(2, 1, 2)] * 2 == [add(tmp_path / "one")] * 2
    for name in ("images.bin", "texts.bin", "encoder.json"):
        [two], [one] = (tmp_path / "two").rglob(name), (tmp_path / "one").rglob(name)
        assert two.read_bytes() == one.read_bytes()


def test_an_interrupted_pass_continues(tmp_path, encoder):
    store = VectorStore(tmp_path / "vectors", encoder, batch_size=1)
    store.add_texts(TEXTS[:2])
    whole = store.texts(TEXTS[:2])
    [file] = (tmp_path / "vectors").rglob("texts.bin")
    file.write_bytes(file.read_bytes()[:-3])
    again = VectorStore(tmp_path / "vectors", encoder)
    assert again.add_texts(TEXTS) == 2
    torch.testing.assert_close(VectorStore(tmp_path / "vectors", encoder).texts(TEXTS[:2]), whole)


def test_a_damaged_vector_is_an_error(tmp_path, encoder):
    VectorStore(tmp_path / "vectors", encoder).add_texts(TEXTS)
    [file] = (tmp_path / "vectors").rglob("texts.bin")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"texts\.bin is damaged: record 1 "):
        VectorStore(tmp_path / "vectors", encoder)


def test_encoders_have_vectors_of_their_own(tmp_path, encoder):
    VectorStore(tmp_path / "vectors", encoder).add_texts(TEXTS)
    tiny_clip.save(tmp_path / "other")
    other = VectorStore(tmp_path / "vectors", str(tmp_path / "other"))
    assert other.add_texts(TEXTS) == 3
    assert len(list((tmp_path / "vectors").iterdir())) == 2
