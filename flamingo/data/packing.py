"""Packing: several short documents share a row, so that a batch has little padding."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional

from flamingo.data.collate import EncodedExample, collate

#: Documents with the same images. Only the first of them has the pixels or features.
Group = Sequence[EncodedExample]


def pack(
    groups: Sequence[Group], length: int, pad_token_id: int, num_rows: int = 0
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns a batch as :func:`collate`, in whose rows short documents are packed.

    Args:
        groups: Groups of documents with the same images. All examples need labels.
        length: The tokens of a row. A row holds as many groups as fit; a longer group has its own row.
        pad_token_id: The id of padding.
        num_rows: The least number of rows, all of which then have ``length`` tokens or more; 0: as few as possible.

    Returns:
        The tensors of :func:`collate`, but no ``attention_mask``: ``segment_ids`` [b t] number the documents of a row,
        and ``position_ids`` [b t] start at 0 in each document.

    Raises:
        ValueError: As :func:`collate`.
    """
    rows = _rows(groups, length)
    rows += [[] for _ in range(num_rows - len(rows))]
    examples = [_joined(row) for row in rows]
    if num_rows > 0:
        examples = [_of_length(example, length, pad_token_id) for example in examples]
    return _with_places(collate(examples, pad_token_id, padding_side="right"), rows)


def pack_rows(
    rows: Sequence[Sequence[EncodedExample]], length: int, max_images: int, pad_token_id: int
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns a batch as :func:`pack`, with the given documents in each row, and of a shape that is always the same.

    A row without documents has padding only, which the loss does not count.

    Args:
        rows: The documents of each row. All examples need labels.
        length: The tokens of a row.
        max_images: The places for images in a row.
        pad_token_id: The id of padding.
    """
    groups = [[[example] for example in row] for row in rows]
    examples = [_of_length(_joined(row), length, pad_token_id) for row in groups]
    batch = collate(examples, pad_token_id, padding_side="right")
    for name in ("pixel_values", "image_features"):
        if name in batch:
            images = batch[name]
            missing = images.new_zeros(len(images), max_images - images.shape[1], *images.shape[2:])
            batch[name] = torch.cat([images, missing], dim=1)
    return _with_places(batch, groups)


def segment_bounds(segment_ids: Int[Tensor, "b t"]) -> Int[Tensor, " bounds"]:
    """Returns the starts of all documents in the concatenated rows, and the end of the last: ``cu_seqlens``.

    The padding of a row is a document of its own.
    """
    is_start = functional.pad(segment_ids.diff(dim=1) != 0, (1, 0), value=True)
    starts = is_start.flatten().nonzero().squeeze(1)
    return functional.pad(starts, (0, 1), value=segment_ids.numel()).int()


def _of_length(example: EncodedExample, length: int, pad_token_id: int) -> EncodedExample:
    """Returns an example with labels, padded on the right to ``length`` tokens."""
    assert example.labels is not None
    missing = (0, max(0, length - len(example.input_ids)))
    return replace(
        example,
        input_ids=functional.pad(example.input_ids, missing, value=pad_token_id),
        image_index=functional.pad(example.image_index, missing, value=-1),
        labels=functional.pad(example.labels, missing, value=-100),
    )


def _with_places(
    batch: dict[str, Shaped[Tensor, "..."]], rows: Sequence[Sequence[Group]]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns a batch with the ``segment_ids`` and the ``position_ids`` of packed rows in place of its mask."""
    shape = batch["input_ids"].shape
    # The padding of a row counts as a document: softmax over no token would be NaN.
    document = torch.full(shape, -1, dtype=torch.int32)
    position = torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        lengths = [len(example.input_ids) for example in chain.from_iterable(row)]
        num_tokens = sum(lengths)
        numbers = torch.arange(len(lengths), dtype=torch.int32)
        positions = [torch.arange(tokens) for tokens in lengths]
        document[index, :num_tokens] = numbers.repeat_interleave(torch.tensor(lengths, dtype=torch.long))
        position[index, :num_tokens] = _concatenated_ids(positions)
    packed = batch | {"segment_ids": document, "position_ids": position}
    del packed["attention_mask"]
    return packed


def _rows(groups: Sequence[Group], length: int) -> list[list[Group]]:
    """Returns the groups of each row: the longest groups first, each in the first row with enough room."""
    rows: list[list[Group]] = []
    for group in sorted(groups, key=_num_tokens, reverse=True):
        for row in rows:
            tokens_in_row = sum(_num_tokens(other) for other in row)
            if tokens_in_row + _num_tokens(group) <= length:
                row.append(group)
                break
        else:
            rows.append([group])
    return rows


def _num_tokens(group: Group) -> int:
    return sum(len(example.input_ids) for example in group)


def _joined(groups: Sequence[Group]) -> EncodedExample:
    """Returns the groups of a row as one example: all their images, and each token's image among them."""
    input_ids, image_index, labels = [], [], []
    num_images = 0
    for group in groups:
        for example in group:
            assert example.labels is not None
            input_ids.append(example.input_ids)
            index_in_row = example.image_index + num_images
            image_index.append(torch.where(example.image_index >= 0, index_in_row, -1))
            labels_of_document = example.labels.clone()
            labels_of_document[0] = -100  # it would be predicted from another document
            labels.append(labels_of_document)
        num_images += _num_images(group[0])
    pixels = [group[0].pixel_values for group in groups]
    features = [group[0].image_features for group in groups]
    return EncodedExample(
        input_ids=_concatenated_ids(input_ids),
        image_index=_concatenated_ids(image_index),
        labels=_concatenated_ids(labels),
        pixel_values=_concatenated(pixels),
        image_features=_concatenated(features),
    )


def _concatenated_ids(ids: Sequence[Tensor]) -> Int[Tensor, " t"]:
    return torch.cat([torch.zeros(0, dtype=torch.long), *ids])


def _num_images(example: EncodedExample) -> int:
    if example.pixel_values is not None:
        return len(example.pixel_values)
    if example.image_features is not None:
        return len(example.image_features)
    return 0


def _concatenated(images: Sequence[Tensor | None]) -> Tensor | None:
    present = [rows for rows in images if rows is not None]
    return torch.cat(present) if present else None
