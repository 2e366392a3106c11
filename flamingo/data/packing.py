"""Short documents in common rows: a batch of them is hardly ever padding."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from flamingo.data.collate import Example, collate

#: Documents that show the same images, which the first of them has.
Group = Sequence[Example]


def pack(groups: Sequence[Group], length: int, pad_token_id: int) -> dict[str, Tensor]:
    """As :func:`collate`, but a row holds as many groups as fit into ``length`` tokens, or one that is longer.

    ``attention_mask`` [b 1 t t] is true where a token may look: back to the beginning of its document; and
    ``position_ids`` [b t] begin with each document. The longest groups are placed first, each into the
    first row that has room. All examples need labels. Raises ValueError as :func:`collate` does.
    """
    rows: list[list[Group]] = []
    for group in sorted(groups, key=_tokens, reverse=True):
        for row in rows:
            if sum(map(_tokens, row)) + _tokens(group) <= length:
                row.append(group)
                break
        else:
            rows.append([group])
    batch = collate([_joined(row) for row in rows], pad_token_id, "right")
    lengths = [[len(example.input_ids) for group in row for example in group] for row in rows]
    shape = batch["input_ids"].shape
    # What is left of a row counts as a document of its own: it looks at itself, as softmax needs something to see.
    document = torch.full(shape, -1)
    position = torch.zeros(shape, dtype=torch.long)
    for place, own in enumerate(lengths):
        document[place, : sum(own)] = torch.arange(len(own)).repeat_interleave(torch.tensor(own))
        position[place, : sum(own)] = torch.cat([torch.arange(n) for n in own])
    same = rearrange(document, "b t -> b 1 t 1") == rearrange(document, "b s -> b 1 1 s")
    return {**batch, "attention_mask": same.tril(), "position_ids": position}


def _tokens(group: Group) -> int:
    return sum(len(example.input_ids) for example in group)


def _joined(groups: Sequence[Group]) -> Example:
    """Of all groups of a row one example: the images of all, and each token's place among them."""
    index, labels, images = [], [], 0
    for group in groups:
        for example in group:
            index.append(torch.where(example.image_index >= 0, example.image_index + images, -1))
            assert example.labels is not None
            labels.append(example.labels.clone())
            labels[-1][0] = -100  # would be predicted from another document
        images += _images(group[0])
    first = [group[0] for group in groups]
    return Example(
        input_ids=torch.cat([example.input_ids for group in groups for example in group]),
        image_index=torch.cat(index),
        labels=torch.cat(labels),
        pixel_values=_together([example.pixel_values for example in first]),
        image_features=_together([example.image_features for example in first]),
    )


def _images(example: Example) -> int:
    own = example.pixel_values if example.pixel_values is not None else example.image_features
    return 0 if own is None else len(own)


def _together(images: Sequence[Tensor | None]) -> Tensor | None:
    given = [own for own in images if own is not None]
    return torch.cat(given) if given else None
