"""Documents -> encoded examples -> batches, as a loader makes them."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from flamingo.data.batch_sizes import BatchSizes, causal_pairs
from flamingo.data.collate import Batch, EncodedExample, collate, count_label_tokens, image_places, label_places
from flamingo.data.document import Document, Image
from flamingo.data.order import Endless
from flamingo.data.packing import pack, segment_bounds
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.shortening import encode_shortened
from flamingo.utils.checks import probability
from flamingo.utils.token_ids import TokenIds

#: The names of a batch's images; it has one of them, or none.
IMAGES = ("pixel_values", "image_features")
#: Part of the seed: another text draws other values of ``next_image``.
_STREAM = "next image"


@runtime_checkable
class ImageFeatures(Protocol):
    """Precomputed features of images, such as :class:`flamingo.inference.features.FeatureStore`."""

    def stacked(self, images: Sequence[Image]) -> Float[Tensor, "m f p v"]:
        """Returns the features of several images."""
        ...


@dataclass(frozen=True)
class EncodedGroup:
    """Documents with the same images, of which only the first has pixels or features, and the id of the first."""

    examples: list[EncodedExample]
    id: str
    #: The number of images that each of the documents lost because it had too many tokens.
    dropped_images: int = 0


class EncodedDocuments:
    """An endless data set of :class:`EncodedGroup`, each encoded when it is asked for."""

    def __init__(
        self,
        documents: Endless[Document],
        processor: FlamingoProcessor,
        features: ImageFeatures | None = None,
        captions_per_image: int = 1,
        p_next: float = 0.0,
        seed: int | str = 0,
        shorten_to: int | None = None,
    ) -> None:
        """Makes the data set.

        Args:
            documents: The documents. ``captions_per_image`` consecutive documents show the same images.
            processor: Encodes the documents.
            features: Features of all images, whose files are then not opened; None: pixels as bytes.
            captions_per_image: The documents of a group.
            p_next: The probability that the texts of a group belong to the image after them.
            seed: The seed of ``p_next``.
            shorten_to: The largest number of tokens: a longer document loses its first images until it fits. None: a
                document with more tokens than the tokenizer's ``model_max_length`` is an error.

        Raises:
            UserError: If ``p_next`` is not a probability.
        """
        probability("p_next", p_next)
        self.documents, self.processor, self.features = documents, processor, features
        self.captions_per_image, self.p_next, self.seed = captions_per_image, p_next, seed
        self.shorten_to = shorten_to

    def __getitem__(self, position: int) -> EncodedGroup:
        start = position * self.captions_per_image
        documents = [self.documents[start + number] for number in range(self.captions_per_image)]
        next_image = random.Random(f"{_STREAM} {self.seed} {position}").random() < self.p_next
        encode = partial(self._encode, next_image=next_image)
        if self.shorten_to is None:
            return EncodedGroup(encode(documents), documents[0].id)
        examples, dropped_images = encode_shortened(documents, encode)
        return EncodedGroup(examples, documents[0].id, dropped_images)

    def _encode(self, documents: Sequence[Document], next_image: bool) -> list[EncodedExample]:
        # Encode the documents without pixels first: if one is too long, no picture is decoded in vain.
        others = []
        for document in documents[1:]:
            others.append(self._without_pixels(document, next_image))
        return [self._with_images(documents[0], next_image)] + others

    def _without_pixels(self, document: Document, next_image: bool) -> EncodedExample:
        return self.processor.encode(document, next_image=next_image, max_length=self.shorten_to, pixels=False)

    def _with_images(self, document: Document, next_image: bool) -> EncodedExample:
        if self.features is None:
            return self.processor.encode(document, next_image=next_image, max_length=self.shorten_to, as_bytes=True)
        assert document.window is None, f"{document} has a window, but features are of all its images"
        example = self._without_pixels(document, next_image)
        images = [chunk.image for chunk in document.chunks() if chunk.image is not None]
        return replace(example, image_features=self.features.stacked(images))


def make_batch(
    groups: Sequence[EncodedGroup],
    pad_token_id: int,
    pack_to: int = 0,
    known_ids: TokenIds | None = None,
    num_rows: int = 0,
) -> Batch:
    """Returns a batch of all documents of the groups, padded on the right or packed into rows.

    Args:
        groups: Groups with the same number of documents.
        pad_token_id: The id of padding.
        pack_to: Tokens of a row that several documents share; 0: each document has its own row. The images of a group
            are then in the batch once: row ``i`` of the images belongs to the documents of group ``i``.
        known_ids: The ids that the model has embeddings for. The batch is then checked on the host, as
            :func:`checked_on_host`, so that the model reads nothing back from its device. None: the model checks it.
        num_rows: The least number of packed rows, all of one length; 0: as few and as short as possible.

    Raises:
        UserError: For an id that is not among ``known_ids``.
    """
    ids = [group.id for group in groups]
    last_texts: list[range | None] = []
    if pack_to:
        tensors = pack([group.examples for group in groups], pack_to, pad_token_id, num_rows)
    else:
        examples = [example for group in groups for example in group.examples]
        last_texts = [example.last_text for example in examples]
        tensors = collate(examples, pad_token_id, "right")
        documents_per_group = len(examples) // len(groups)
        for name in IMAGES:
            if name in tensors:
                tensors[name] = tensors[name][::documents_per_group]  # only a group's first document has its images
    if known_ids is not None:
        tensors = checked_on_host(tensors, known_ids)
    dropped_images = sum(group.dropped_images for group in groups)
    sizes = sum((sizes_of(group.examples) for group in groups), BatchSizes())
    return Batch(tensors, ids, count_label_tokens(tensors["labels"]), last_texts, dropped_images, sizes)


def sizes_of(examples: Sequence[EncodedExample]) -> BatchSizes:
    """Returns the sizes of documents with the same images, of which only the first has pixels or features."""
    lengths = [len(example.input_ids) for example in examples]
    first = examples[0]
    encoded_images = 0 if first.pixel_values is None else len(first.pixel_values)
    stored_images = 0 if first.image_features is None else len(first.image_features)
    return BatchSizes(
        tokens=sum(lengths),
        token_pairs=sum(map(causal_pairs, lengths)),
        images=encoded_images + stored_images,
        encoded_images=encoded_images,
    )


def checked_on_host(tensors: dict[str, Shaped[Tensor, "..."]], known_ids: TokenIds) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns a batch with all that a model would otherwise read back from its device.

    These are ``image_places``, ``label_places``, ``cu_seqlens`` if the rows are packed, and no ``attention_mask`` if
    there is no padding.

    Raises:
        UserError: For an id that is not among ``known_ids``.
    """
    known_ids.check(tensors["input_ids"])
    checked = tensors | {
        "image_places": _places_of_images(tensors),
        "label_places": label_places(tensors["labels"]),
    }
    if "segment_ids" in tensors:
        checked["cu_seqlens"] = segment_bounds(tensors["segment_ids"])
    elif tensors["attention_mask"].all():
        del checked["attention_mask"]
    return checked


def _places_of_images(tensors: dict[str, Shaped[Tensor, "..."]]) -> Int[Tensor, " places"]:
    """Returns the places of a batch that hold an image: see :func:`flamingo.data.collate.image_places`."""
    for name in IMAGES:
        if name in tensors:
            documents, images = tensors[name].shape[:2]
            return image_places(tensors["image_index"], documents, images)
    return image_places(tensors["image_index"], documents=1, images=0)


class FixedBatches(Sequence[Batch]):
    """The batches of the first groups of an endless data set, each made when it is asked for."""

    def __init__(
        self, items: EncodedDocuments, collate: Callable[[list[EncodedGroup]], Batch], batch_size: int, num_groups: int
    ) -> None:
        """Makes the sequence.

        Args:
            items: The data set.
            collate: Makes a batch of groups.
            batch_size: Groups of a batch; the last one may have fewer.
            num_groups: Groups of all batches.
        """
        self.items, self.collate = items, collate
        self.batch_size, self.num_groups = batch_size, num_groups

    def __len__(self) -> int:
        return math.ceil(self.num_groups / self.batch_size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start = number * self.batch_size
        stop = min(start + self.batch_size, self.num_groups)
        return self.collate([self.items[position] for position in range(start, stop)])
