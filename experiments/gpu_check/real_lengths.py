"""Pages and pairs of real lengths: padded, as OpenFlamingo trains on them, and packed, as we do."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from experiments.benchmark.shapes import Shape
from flamingo import FlamingoProcessor
from flamingo.data.collate import Batch, EncodedExample, collate
from flamingo.data.encode import EncodedGroup, make_batch
from flamingo.utils.token_ids import TokenIds

#: Tokens of a row, and the images of a page that OpenFlamingo makes room for.
PAGE_TOKENS, PAIR_TOKENS, PAGE_IMAGES = 256, 32, 6
#: Tokens and images of every 5th page, by length, of 107 pages of MMC4's shard 151 (github.com/allenai/mmc4, commit
#: 5b124a0) with OpenFlamingo's limits, tokenized as by SmolLM2. Their mean is 234 tokens and 3.4 images.
PAGES = (
    (84, 3),
    (104, 2),
    (129, 2),
    (175, 2),
    (220, 4),
    (240, 3),
    (256, 3),
    (256, 4),
    (256, 4),
    (256, 6),
    (256, 3),
    (256, 3),
    (256, 2),
    (256, 5),
    (256, 4),
    (256, 3),
    (256, 2),
    (256, 6),
    (256, 6),
    (256, 3),
)
#: Tokens of pairs: the 5%, 15%, ... 95% points of 30,000 captions of Flickr8k, tokenized alike, with 3 special tokens.
PAIRS = (10, 11, 13, 14, 15, 15, 17, 18, 19, 23)


@dataclass(frozen=True)
class MixedUpdate:
    """The documents of an update: a batch of pages, and one of pairs."""

    pages: int
    pairs: int


@dataclass(frozen=True)
class Documents:
    """Encoded pages and pairs with random words and pixels."""

    pages: list[EncodedExample]
    pairs: list[EncodedExample]

    @property
    def tokens(self) -> int:
        """The tokens of all, without padding."""
        return sum(len(example.input_ids) for example in self.pages + self.pairs)

    @property
    def images(self) -> int:
        """The images of all, without empty places."""
        images = 0
        for example in self.pages + self.pairs:
            assert example.pixel_values is not None
            images += len(example.pixel_values)
        return images


def make_documents(update: MixedUpdate, shape: Shape, processor: FlamingoProcessor) -> Documents:
    """Returns the documents of an update, whose lengths go through the tables in turn."""
    rng = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    pages = []
    for number in range(update.pages):
        tokens, images = PAGES[number % len(PAGES)]
        pages.append(_example(tokens, images, shape, processor, rng, generator))
    pairs = []
    for number in range(update.pairs):
        pairs.append(_example(PAIRS[number % len(PAIRS)], 1, shape, processor, rng, generator))
    return Documents(pages, pairs)


def _example(
    tokens: int,
    images: int,
    shape: Shape,
    processor: FlamingoProcessor,
    rng: random.Random,
    generator: torch.Generator,
) -> EncodedExample:
    """Returns a document with images at equal distances. The labels are all tokens but the image markers."""
    image_index = torch.arange(tokens) * images // tokens
    is_marker = torch.cat([torch.ones(1, dtype=torch.bool), image_index.diff() > 0])
    input_ids = torch.tensor(rng.choices(shape.words, k=tokens)).masked_fill(is_marker, processor.image_token_id)
    picture = (images, 1, 3, shape.image_size, shape.image_size)
    return EncodedExample(
        input_ids=input_ids,
        image_index=image_index,
        labels=input_ids.masked_fill(is_marker, -100),
        pixel_values=torch.randint(256, picture, generator=generator, dtype=torch.uint8),
    )


def padded(documents: Documents, pad_token_id: int) -> list[dict[str, Shaped[Tensor, "..."]]]:
    """Returns a batch of pages and one of pairs as OpenFlamingo's loaders make them.

    Rows have 256 and 32 tokens. Each page has 6 images, of which the missing ones are zeros that are encoded.
    """
    batches = []
    for examples, length, images in ((documents.pages, PAGE_TOKENS, PAGE_IMAGES), (documents.pairs, PAIR_TOKENS, 1)):
        batch = collate(examples, pad_token_id, padding_side="right")
        missing = length - batch["input_ids"].shape[1]
        batch["input_ids"] = _longer(batch["input_ids"], missing, pad_token_id)
        batch["attention_mask"] = _longer(batch["attention_mask"], missing, 0)
        batch["labels"] = _longer(batch["labels"], missing, -100)
        pixels = batch["pixel_values"]
        empty = pixels.new_zeros(len(pixels), images - pixels.shape[1], *pixels.shape[2:])
        batch["pixel_values"] = torch.cat([pixels, empty], dim=1)
        batches.append(batch)
    return batches


def packed(documents: Documents, shape: Shape, processor: FlamingoProcessor) -> list[Batch]:
    """Returns a batch of pages and one of pairs in rows of 256 tokens, as our loaders make them."""
    known_ids = TokenIds(shape.vocab_size, tuple(processor.new_token_ids))
    pad_token_id = processor.tokenizer.pad_token_id
    batches = []
    for examples in (documents.pages, documents.pairs):
        groups = [EncodedGroup([example], "") for example in examples]
        batches.append(make_batch(groups, pad_token_id, pack_to=PAGE_TOKENS, known_ids=known_ids))
    return batches


def _longer(tensor: Tensor, missing: int, value: int) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, missing), value=value)


#: Makes something of the tensors of a batch.
Prepare = Callable[[dict[str, Shaped[Tensor, "..."]]], dict[str, Shaped[Tensor, "..."]]]


def on_device(
    batches: Sequence[dict[str, Shaped[Tensor, "..."]]], device: torch.device, prepare: Prepare
) -> list[dict[str, Shaped[Tensor, "..."]]]:
    """Returns the tensors of batches on a device, with normalized pixels."""
    return [prepare({name: tensor.to(device) for name, tensor in batch.items()}) for batch in batches]
