"""Examples of different lengths and numbers of images -> one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Example:
    """One document as tensors, unpadded."""

    input_ids: Int[Tensor, " t"]
    #: For each token the image that it sees, -1 for none.
    image_index: Int[Tensor, " t"]
    #: What to predict; -100 where the loss does not count. None in a prompt.
    labels: Int[Tensor, " t"] | None
    #: Floats, or bytes that are normalized later.
    pixel_values: Float[Tensor, "m f c h w"] | UInt8[Tensor, "m f c h w"] | None
    #: The frozen encoder's features, in the place of pixels.
    image_features: Float[Tensor, "m f p v"] | None = None


@dataclass
class Batch:
    """The arguments of the model's ``forward``, with ``labels``, and the ids of the documents for error messages."""

    tensors: dict[str, Tensor]
    ids: list[str]

    def label_tokens(self) -> int:
        """Returns the number of tokens that the loss counts: the first of a row is predicted from nothing."""
        return int((self.tensors["labels"][:, 1:] != -100).sum())


def collate(examples: Sequence[Example], pad_token_id: int, padding_side: PaddingSide) -> dict[str, Tensor]:
    """Pad to the longest example and to the most images.

    Returns ``input_ids``, ``attention_mask``, ``image_index`` [b t], ``labels`` [b t] unless the
    examples are prompts, and ``pixel_values`` [b m f c h w] or ``image_features`` [b m f p v] unless no
    example has an image. Places without an image are zeros, which no ``image_index`` names. Raises
    ValueError for examples that do not fit into one batch.
    """
    if not examples:
        raise ValueError("cannot make a batch of no examples")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be left or right, got {padding_side!r}")
    length = max(len(example.input_ids) for example in examples)

    def pad(rows: list[Tensor], value: int) -> Tensor:
        short = [length - len(row) for row in rows]
        sides = [(n, 0) if padding_side == "left" else (0, n) for n in short]
        return torch.stack([F.pad(row, side, value=value) for row, side in zip(rows, sides, strict=True)])

    batch = {
        "input_ids": pad([example.input_ids for example in examples], pad_token_id),
        "attention_mask": pad([torch.ones_like(example.input_ids) for example in examples], 0),
        "image_index": pad([example.image_index for example in examples], -1),
    }
    labels = [example.labels for example in examples if example.labels is not None]
    if len(labels) == len(examples):
        batch["labels"] = pad(labels, -100)
    elif labels:
        raise ValueError("a batch holds either prompts, which have no labels, or training examples; not both")
    for name in ("pixel_values", "image_features"):
        images = [getattr(example, name) for example in examples]
        if any(own is not None for own in images):
            batch[name] = _padded_images(images, name)
    if "pixel_values" in batch and "image_features" in batch:
        raise ValueError("the images of one batch are either pixels or features, not both")
    return batch


def _padded_images(images: Sequence[Tensor | None], name: str) -> Num[Tensor, "b m f *features"]:
    shapes = {own.shape[1:] for own in images if own is not None}
    if len(shapes) > 1:
        raise ValueError(f"{name} of one batch must have the same frames and size, got {sorted(map(list, shapes))}")
    given = [own for own in images if own is not None]
    padded = given[0].new_zeros(len(images), max(map(len, given)), *shapes.pop())
    for row, own in zip(padded, images, strict=True):
        if own is not None:
            row[: len(own)] = own
    return padded
