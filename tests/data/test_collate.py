"""Padding to a batch."""

import pytest
import torch

from flamingo.data.collate import EncodedExample, collate


def example(length, images=0, labels=True, size=2):
    ids = torch.arange(1, length + 1)
    pixels = torch.full((images, 1, 3, size, size), float(length)) if images else None
    return EncodedExample(ids, torch.full((length,), images - 1), ids if labels else None, pixels)


def features(length, images=1):
    ids = torch.arange(1, length + 1)
    kept = torch.full((images, 1, 4, 6), float(length), dtype=torch.float16)
    return EncodedExample(ids, torch.full((length,), images - 1), ids, None, kept)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_given_side_and_nobodys(side):
    batch = collate([example(2, images=1), example(4, images=3), example(3)], pad_token_id=9, padding_side=side)
    ids = {"left": [[9, 9, 1, 2], [1, 2, 3, 4], [9, 1, 2, 3]], "right": [[1, 2, 9, 9], [1, 2, 3, 4], [1, 2, 3, 9]]}
    assert batch["input_ids"].tolist() == ids[side]
    padding = batch["input_ids"] == 9
    assert torch.equal(batch["attention_mask"], (~padding).long())
    assert (batch["image_index"][padding] == -1).all()
    assert (batch["labels"][padding] == -100).all()
    assert torch.equal(batch["labels"][~padding], batch["input_ids"][~padding])
    assert batch["image_index"][~padding].tolist() == [0, 0, 2, 2, 2, 2, -1, -1, -1]
    assert batch["pixel_values"].shape == (3, 3, 1, 3, 2, 2)
    assert batch["pixel_values"].amax(dim=(2, 3, 4, 5)).tolist() == [[2, 0, 0], [4, 4, 4], [0, 0, 0]]


def test_features_replace_pixels_in_their_own_precision():
    batch = collate([features(2), features(3, images=2), example(4)], 0, "right")
    assert "pixel_values" not in batch
    assert batch["image_features"].dtype == torch.float16
    assert batch["image_features"].amax(dim=(2, 3, 4)).tolist() == [[2, 0], [3, 3], [0, 0]]


def test_without_images_or_labels_the_batch_has_none():
    batch = collate([example(2, labels=False), example(3, labels=False)], 0, "left")
    assert batch.keys() == {"input_ids", "attention_mask", "image_index"}


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples"),
        ([example(2), example(2, labels=False)], "labels"),
        ([example(2, 1), example(2, 1, size=3)], "pixel_values"),
        ([example(2, 1), features(2)], r"pixels.*features"),
    ],
)
def test_examples_that_do_not_fit_together_are_refused(examples, message):
    with pytest.raises(ValueError, match=message):
        collate(examples, 0, "left")
