"""A batch holds on the host what the model and the loss need, so that neither reads it back from a device."""

import pytest
import torch
from torch import Tensor

from flamingo.data.collate import EncodedExample, image_places
from flamingo.data.encode import EncodedGroup, make_batch
from flamingo.utils.errors import UserError
from flamingo.utils.token_ids import TokenIds
from tests import tiny

KNOWN = TokenIds(20, (25, 26))


def example(*index, images=0, start=1, last_text=None):
    """Ids from ``start`` on, all of them labels; ``index`` is the image of each token."""
    ids = torch.arange(start, start + len(index))
    pixels = torch.full((images, 1, 3, 2, 2), start) if images else None
    return EncodedExample(ids, torch.tensor(index), ids, pixels, last_text=last_text)


def made(*groups, **settings):
    encoded = [EncodedGroup(list(group), str(number)) for number, group in enumerate(groups)]
    return make_batch(encoded, 0, known_ids=KNOWN, **settings)


def test_places_end_with_the_last_image_that_a_token_sees():
    index = torch.tensor([[-1, 0, 2], [-1, -1, -1], [-1, -1, 0], [0, 1, -1]])
    assert image_places(index, documents=4, images=3).tolist() == [0, 1, 2, 6, 9, 10]
    # Two rows a document, which share its images.
    assert image_places(index, documents=2, images=3).tolist() == [0, 1, 2, 3, 4]
    assert image_places(torch.full((2, 3), -1), documents=1, images=0).tolist() == []


@pytest.mark.parametrize("images", [0, 2])
def test_an_image_that_is_not_there_is_refused(images):
    with pytest.raises(ValueError, match=rf"image 2\b.*has {images}"):
        image_places(torch.tensor([[-1, 2]]), documents=1, images=images)


def test_places_are_those_of_the_images_in_any_packing():
    first, second, third = example(0, 1, 2, images=3), example(0, 0, images=1), example(-1)
    assert made([first], [second], [third]).tensors["image_places"].tolist() == [0, 1, 2, 3]
    # The second document of a group has no images of its own.
    versions = made([first, example(2)], [second, example(0)])
    assert versions.tensors["pixel_values"].shape[:2] == (2, 3)
    assert versions.tensors["image_places"].tolist() == [0, 1, 2, 3]
    packed = made([first], [second], [third], pack_to=4)
    assert packed.tensors["pixel_values"].shape[:2] == (2, 3)
    assert packed.tensors["image_places"].tolist() == [0, 1, 2, 3]
    assert made([third], [third]).tensors["image_places"].tolist() == []


def test_tokens_are_counted_as_the_loss_counts_them():
    groups = [example(0, 0, 0, images=1)], [example(-1, -1)]
    assert made(*groups).label_tokens == 2 + 1
    assert made(*groups, pack_to=9).label_tokens == 2 + 1  # one row, of two documents


def test_last_texts_are_those_of_rows_and_none_when_packed():
    groups = [example(-1, -1, last_text=range(1, 2)), example(-1)], [example(-1, -1, -1, last_text=range(0, 3))] * 2
    assert made(*groups).last_texts == [range(1, 2), None, range(0, 3), range(0, 3)]
    assert made(*groups, pack_to=9).last_texts == []


@pytest.mark.parametrize("pack_to", [0, 9])
def test_an_id_without_an_embedding_is_refused(pack_to):
    made([example(-1, start=19), example(-1, -1, start=25)], pack_to=pack_to)
    with pytest.raises(UserError, match=r"24.*20.*\[25, 26\]"):
        made([example(-1, start=3)], [example(-1, -1, start=24)], pack_to=pack_to)


def test_a_checked_batch_has_a_mask_only_if_it_has_padding():
    assert made([example(-1, 0, images=1)], [example(-1)]).tensors["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert "attention_mask" not in made([example(-1)], [example(0, images=1)]).tensors
    packed = made([example(-1, -1)], [example(-1)], pack_to=4).tensors
    assert "attention_mask" not in packed and packed["cu_seqlens"].tolist() == [0, 2, 3]


def test_without_known_ids_the_check_is_left_to_the_model():
    batch = make_batch([EncodedGroup([example(-1, start=24)], "a")], 0)
    assert "image_places" not in batch.tensors


def test_the_model_encodes_the_images_of_these_places(backbones, monkeypatch):
    model = tiny.flamingo(backbones, gates=0.3)
    pixels = torch.randn(3, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    known = EncodedExample(torch.arange(5), torch.tensor([-1, 0, 1, 2, 2]), torch.arange(5), pixels)
    fewer = EncodedExample(torch.arange(4), torch.tensor([-1, 0, 0, 0]), torch.arange(4), pixels[:1])
    groups = [EncodedGroup([known], "a"), EncodedGroup([fewer], "b")]
    tensors = make_batch(groups, 0, known_ids=model.new_tokens.known_ids).tensors
    expected = model(**{name: tensor for name, tensor in tensors.items() if name != "image_places"})
    encoded = []
    monkeypatch.setattr(model, "encode_images", lambda images: encoded.append(images.shape[:2]) or encode(images))
    encode = type(model).encode_images.__get__(model)
    actual = model(**tensors)
    assert encoded == [(1, 4)]
    assert torch.equal(actual.loss, expected.loss)
    assert torch.equal(actual.logits, expected.logits)
    apart = {name: tensors[name] for name in ("input_ids", "attention_mask", "image_index")}
    of_all = model(**apart, visual_tokens=encode(tensors["pixel_values"]))
    torch.testing.assert_close(actual.logits, of_all.logits)


def test_a_batch_is_pinned_and_moved_as_a_whole(monkeypatch):
    batch = made([example(0, 0, images=1, last_text=range(1, 2))])
    pinned, moved = [], []

    def pin_memory(tensor):
        pinned.append(tensor.shape)
        return tensor

    def to(tensor, device, non_blocking=False):
        moved.append((tensor.shape, device, non_blocking))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    device = torch.device("meta")
    on_device = batch.pin_memory().to(device)
    shapes = [tensor.shape for tensor in batch.tensors.values()]
    assert pinned == shapes
    assert moved == [(shape, device, True) for shape in shapes]
    assert (on_device.ids, on_device.label_tokens, on_device.last_texts) == (["0"], 1, [range(1, 2)])
