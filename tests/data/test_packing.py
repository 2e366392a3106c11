"""Several documents in a row: attention, positions and images of each document stay separate."""

import torch

from flamingo.data.collate import EncodedExample
from flamingo.data.packing import pack, segment_bounds


def example(length, images=0, value=0.0):
    ids = torch.arange(1, length + 1)
    pixels = torch.full((images, 1, 3, 2, 2), value) if images else None
    return EncodedExample(ids, torch.arange(length) % (images + 1) - 1, ids, pixels)


def test_documents_share_rows_and_see_only_themselves():
    batch = pack([[example(2)], [example(5)], [example(4)]], length=7, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 1, 2], [1, 2, 3, 4, 9, 9, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 3, 0, 0, 0]]
    assert "attention_mask" not in batch
    # Padding, too, is a document, so it sees something.
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, -1, -1, -1]]
    assert segment_bounds(batch["segment_ids"]).tolist() == [0, 5, 7, 11, 14]
    # The first token of a document must not be predicted from the last one of another.
    assert batch["labels"].tolist() == [[-100, 2, 3, 4, 5, -100, 2], [-100, 2, 3, 4, -100, -100, -100]]


def test_images_of_all_documents_of_a_row_stand_together():
    batch = pack([[example(3, images=2, value=1)], [example(2, images=1, value=2)], [example(1)]], 6, 0)
    assert batch["image_index"].tolist() == [[-1, 0, 1, -1, 2, -1]]
    assert batch["pixel_values"].shape == (1, 3, 1, 3, 2, 2)
    assert batch["pixel_values"].amax(dim=(2, 3, 4, 5)).tolist() == [[1, 1, 2]]


def test_versions_of_a_document_share_its_images():
    versions = [
        example(4, images=1, value=1),
        EncodedExample(torch.arange(3), torch.tensor([-1, 0, 0]), torch.arange(3), None),
    ]
    batch = pack([versions, [example(2, images=1, value=2)]], 9, 0)
    assert batch["image_index"].tolist() == [[-1, 0, -1, 0, -1, 0, 0, -1, 1]]
    assert batch["pixel_values"].amax(dim=(2, 3, 4, 5)).tolist() == [[1, 2]]


def test_what_is_longer_than_a_row_has_one_of_its_own():
    batch = pack([[example(2)], [example(6)], [example(1)]], length=3, pad_token_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 1, 0, 0, 0]]


def test_batches_of_given_rows_have_one_shape():
    few = pack([[example(2, images=1)], [example(5)]], length=7, pad_token_id=9, num_rows=3)
    more = pack([[example(6)], [example(6)], [example(3)]], length=7, pad_token_id=9, num_rows=3)
    assert few["input_ids"].shape == more["input_ids"].shape == (3, 7)
    assert (few["input_ids"][1:] == 9).all()
    assert (few["labels"][1:] == -100).all()
    assert (few["segment_ids"][1:] == -1).all()
    assert len(few["pixel_values"]) == 3


def test_documents_beyond_the_given_rows_are_kept():
    groups = [[example(6)], [example(4)], [example(9)]]
    batch = pack(groups, length=7, pad_token_id=0, num_rows=1)
    assert batch["input_ids"].shape == (3, 9)
    assert int((batch["segment_ids"] >= 0).sum()) == 6 + 4 + 9
