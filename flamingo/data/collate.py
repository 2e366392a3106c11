"""Examples of different lengths and numbers of images -> one batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int, Num, Shaped, UInt8
from torch import Tensor

from flamingo.data.batch_sizes import BatchSizes
from flamingo.data.document import Image
from flamingo.data.drops import Drops

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class EncodedExample:
    """One document as tensors, unpadded."""

    input_ids: Int[Tensor, " t"]
    #: The image that each token sees; -1: none.
    image_index: Int[Tensor, " t"]
    #: The tokens to predict; -100: not counted by the loss. None: the example is a prompt.
    labels: Int[Tensor, " t"] | None
    #: Floats, or bytes that are normalized later; None: no pixels.
    pixel_values: Float[Tensor, "m f c h w"] | UInt8[Tensor, "m f c h w"] | None
    #: The frozen encoder's features, in place of pixels.
    image_features: Float[Tensor, "m f p v"] | None = None
    #: The positions of the document's last text; None if the model is not trained on them.
    last_text: range | None = None
    #: The images of the pixels, also where pixels are left out.
    images: Sequence[Image] = ()


@dataclass
class Batch:
    """The input of a loss: tensors, which move to the model's device, and numbers, which stay on the host."""

    #: The arguments of the model's ``forward``, with ``labels``: see :func:`collate` for their shapes.
    tensors: dict[str, Shaped[Tensor, "..."]]
    #: The ids of the documents, for errors.
    ids: list[str]
    #: The number of tokens that the loss counts.
    label_tokens: int
    #: The positions of the last text of each row's document; None if the model is not trained on them. Empty if packed.
    last_texts: Sequence[range | None] = ()
    #: Images that documents with too many tokens lost. Documents of a group share their images, which count once.
    dropped_images: int = 0
    sizes: BatchSizes = field(default_factory=BatchSizes)
    #: What streamed samples lost, by reason: see :mod:`flamingo.data.drops`.
    drops: Drops = field(default_factory=Counter)

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch with its tensors on a device. Copies from pinned memory are asynchronous."""
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors)

    def pin_memory(self) -> "Batch":
        """Returns the batch in pinned memory. A ``DataLoader`` with ``pin_memory`` calls this method."""
        return replace(self, tensors={name: tensor.pin_memory() for name, tensor in self.tensors.items()})


def count_label_tokens(labels: Int[Tensor, "b t"]) -> int:
    """Returns the number of tokens that the loss counts. The first token of a row is never predicted."""
    return int((labels[:, 1:] != -100).sum())


def label_places(labels: Int[Tensor, "b t"]) -> Int[Tensor, " labels"]:
    """Returns the places among ``b * t`` whose next token is counted by the loss."""
    is_counted = torch.zeros_like(labels, dtype=torch.bool)
    is_counted[:, :-1] = labels[:, 1:] != -100
    return is_counted.flatten().nonzero().squeeze(1)


def collate(
    examples: Sequence[EncodedExample], pad_token_id: int, padding_side: PaddingSide
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns examples as one batch, padded to the longest one and to the largest number of images.

    Args:
        examples: The examples: prompts, or training examples with labels.
        pad_token_id: The id of padding.
        padding_side: The side of each row that is padded.

    Returns:
        ``input_ids``, ``attention_mask`` and ``image_index`` [b t]; ``labels`` [b t] unless the examples are prompts;
        ``pixel_values`` [b m f c h w] or ``image_features`` [b m f p v] unless no example has an image. Places
        without an image are zeros, to which no ``image_index`` points.

    Raises:
        ValueError: If the examples do not fit into one batch.
    """
    if not examples:
        raise ValueError("cannot make a batch of no examples")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be left or right, got {padding_side!r}")
    ids = [example.input_ids for example in examples]
    masks = [torch.ones_like(ids_of_example) for ids_of_example in ids]
    image_index = [example.image_index for example in examples]
    batch = {
        "input_ids": _padded(ids, pad_token_id, padding_side),
        "attention_mask": _padded(masks, 0, padding_side),
        "image_index": _padded(image_index, -1, padding_side),
    }
    labels = [example.labels for example in examples if example.labels is not None]
    if len(labels) == len(examples):
        batch["labels"] = _padded(labels, -100, padding_side)
    elif labels:
        raise ValueError("a batch holds either prompts, which have no labels, or training examples; not both")
    pixels_of_examples = [example.pixel_values for example in examples]
    features_of_examples = [example.image_features for example in examples]
    pixels = _padded_images(pixels_of_examples, "pixel_values")
    features = _padded_images(features_of_examples, "image_features")
    if pixels is not None and features is not None:
        raise ValueError("the images of one batch are either pixels or features, not both")
    if pixels is not None:
        batch["pixel_values"] = pixels
    if features is not None:
        batch["image_features"] = features
    return batch


def image_places(image_index: Int[Tensor, "bn t"], documents: int, images: int) -> Int[Tensor, " places"]:
    """Returns the places among ``documents * images`` that hold an image, document by document.

    A document's places end with the last image that one of its tokens sees. The places after it are padding.

    Args:
        image_index: The image that each token sees; -1: none.
        documents: The number of documents.
        images: The number of places for images in each document.

    Raises:
        ValueError: If a token sees an image that the batch does not have.
    """
    last_image = image_index.reshape(documents, -1).amax(dim=1)
    if int(last_image.max()) >= images:
        raise ValueError(f"image_index names image {int(last_image.max())}, but each document has {images}")
    holds_image = torch.arange(images) <= last_image[:, None]
    return holds_image.flatten().nonzero().squeeze(1)


def _padded(rows: list[Tensor], value: int, side: PaddingSide) -> Int[Tensor, "b t"]:
    length = max(len(row) for row in rows)
    padded = rows[0].new_full((len(rows), length), value)
    for target, row in zip(padded, rows, strict=True):
        start = length - len(row) if side == "left" else 0
        target[start : start + len(row)] = row
    return padded


def _padded_images(images: Sequence[Tensor | None], name: str) -> Num[Tensor, "b m f *features"] | None:
    present = [rows for rows in images if rows is not None]
    if not present:
        return None
    shapes = {rows.shape[1:] for rows in present}
    if len(shapes) > 1:
        different = sorted(list(shape) for shape in shapes)
        raise ValueError(f"{name} of one batch must have the same frames and size, got {different}")
    most = max(len(rows) for rows in present)
    [shape] = shapes
    padded = present[0].new_zeros(len(images), most, *shape)
    for target, rows in zip(padded, images, strict=True):
        if rows is not None:
            target[: len(rows)] = rows
    return padded
