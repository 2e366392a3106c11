"""Files and sources -> texts, and the documents that a language model is pretrained on."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.pretraining.tokenizer import END_OF_TEXT
from flamingo.data.readers.entries import Entry, captions_in, usable_captions
from flamingo.data.recognition import recognised
from flamingo.data.records.record import by_reason
from flamingo.data.sources import open_source
from flamingo.utils.errors import UserError
from flamingo.utils.reading import lines, rows

#: The number of words, the most frequent ones, that the similarity of captions is computed from. Others are rare.
_VOCAB_SIZE = 2048
#: The largest number of similar images before the last image of a document.
_MAX_BEFORE = 8
#: Rows of the similarity matrix in memory at once.
_ROWS_AT_ONCE = 1024

#: A text, or the captions of an image.
TextItem = str | tuple[str, ...]


def read_texts(name: str) -> tuple[list[TextItem], dict[str, str]]:
    """Returns the texts of a file or the captions of a source's images, and location -> the reason for items left out.

    A row of a ``.jsonl`` file has a ``text``, ``captions`` or a ``caption``. A line of a ``.txt`` file is a document,
    unless the file is one of Flickr's caption files. Both may be compressed (``.gz``). Every other name is read as
    ``data.root``, without the images. Empty items and items with an end-of-text token are left out.

    Raises:
        UserError: If a file cannot be read, a row has no text, or nothing is left.
    """
    path = Path(name)
    file_name = path.name.removesuffix(".gz")
    skipped: dict[str, str] = {}
    items: Sequence[tuple[str, TextItem]]
    if file_name.endswith(".jsonl"):
        items, skipped = _read_rows(path)
    elif file_name.endswith(".txt") and recognised(path) != "flickr":
        items = list(lines(path))
    else:
        source = open_source(name, captions_only=True)
        items = [(record.id, record.captions) for record in source]
        skipped = dict(source.skipped)
    texts = []
    for location, item in items:
        if END_OF_TEXT in "".join(item):
            skipped[location] = f"a text has a special token: {END_OF_TEXT}"
        else:
            texts.append(item)
    if not texts:
        reasons = f": {by_reason(skipped)}" if skipped else ""
        raise UserError(f"texts: {name} has no text{reasons}")
    return texts, skipped


def _read_rows(path: Path) -> tuple[list[tuple[str, TextItem]], dict[str, str]]:
    """Returns the location and the text or captions of each row, and location -> the reason for rows left out."""
    texts: dict[str, str] = {}
    entries = []
    for location, row in rows(path):
        fields: tuple[str, ...] = ("captions", "caption")
        if "text" in row:
            fields = ("text",)
            texts[location] = row["text"]
        captions_of_row = captions_in(row, fields, location)
        entries.append(Entry(location, location, "", captions_of_row))
    captions, skipped = usable_captions(path, entries)
    items: list[tuple[str, TextItem]] = []
    for location, usable in captions.items():
        items.append((location, texts.get(location, usable)))
    return items, skipped


class TextDocuments:
    """Documents of texts and of captions, ``epochs`` times in different orders.

    A text is a document. Captions become documents of lines as in a prompt. A third of them has all captions of one
    image, a third captions of an image and of similar images, a third captions of random images. Earlier lines thus
    determine the next line, or a part of it, or only its style. (In-Context Pretraining, arXiv 2310.10638, also joins
    related texts; here it prepares the model for RICES demonstrations.)

    Each iteration makes the same documents, one at a time: memory does not grow with ``epochs``.
    """

    def __init__(
        self,
        texts: Sequence[TextItem],
        epochs: int,
        seed: int,
        num_similar: int = 64,
    ) -> None:
        """Finds the similar images.

        Args:
            texts: Texts and captions of images.
            epochs: How often each text is read.
            seed: The seed of all random draws.
            num_similar: The number of similar images that a document draws from. The first few by captions are more
                similar than neighbours by image features.
        """
        self._texts = texts
        self._epochs = epochs
        self._seed = seed
        self._captions: list[tuple[str, ...]] = []
        positions = []
        for position, item in enumerate(texts):
            if not isinstance(item, str):
                self._captions.append(item)
                positions.append(position)
        num_neighbours = max(0, min(num_similar, len(self._captions) - 1))
        neighbours = similar_images(self._captions, num_neighbours).numpy()
        self._neighbours = dict(zip(positions, neighbours, strict=True))

    def __len__(self) -> int:
        return self._epochs * len(self._texts)

    def __iter__(self) -> Iterator[str]:
        rng = random.Random(self._seed)
        num_texts = len(self._texts)
        for _ in range(self._epochs):
            for position in rng.sample(range(num_texts), num_texts):
                item = self._texts[position]
                if isinstance(item, str):
                    yield item
                else:
                    yield self._prompt(rng, item, position)

    def _prompt(self, rng: random.Random, captions: tuple[str, ...], position: int) -> str:
        match rng.choice(("one image", "similar images", "random images")):
            case "one image":
                prompt_lines = rng.sample(captions, len(captions))
            case "similar images":
                neighbours = self._neighbours[position].tolist()
                num_others = min(_MAX_BEFORE, len(neighbours))
                others = rng.sample(neighbours, num_others)
                prompt_lines = [rng.choice(self._captions[other]) for other in others]
                prompt_lines.append(rng.choice(captions))
            case "random images":
                prompt_lines = [rng.choice(rng.choice(self._captions)) for _ in captions]
        template = CaptionTemplate()
        return "".join(f"{template.filled(line)}\n" for line in prompt_lines)


def similar_images(
    captions: Sequence[Sequence[str]],
    number: int,
    max_compared: int = 40_000,
) -> Int[Tensor, "images number"]:
    """Returns for each image the indices of the images with the most similar captions, the most similar first.

    The similarity is the cosine of binary bags of words, weighted by inverse document frequency.

    Args:
        captions: The captions of each image.
        number: The number of similar images; smaller than the number of images.
        max_compared: The largest number of images, next to it in order, that an image is compared with. The bags of
            words take 8 kB per image, and the time is quadratic.
    """
    num_parts = math.ceil(len(captions) / max_compared) or 1
    neighbours = []
    for part in torch.arange(len(captions)).tensor_split(num_parts):
        bags = _bags_of_words([captions[i] for i in part.tolist()])
        indices = _most_similar(bags, number)
        neighbours.append(part[indices])
    return torch.cat(neighbours)


def _bags_of_words(captions: Sequence[Sequence[str]]) -> Float[Tensor, "images words"]:
    """Returns a vector of unit length for each image."""
    words_of_images = []
    counts: Counter[str] = Counter()
    for captions_of_image in captions:
        text = " ".join(captions_of_image).lower()
        words = set(re.findall(r"\w+", text))
        words_of_images.append(words)
        counts.update(sorted(words))  # so that ties have the same order in every process
    vocabulary = [word for word, _ in counts.most_common(_VOCAB_SIZE)]
    columns = {word: column for column, word in enumerate(vocabulary)}
    bags = torch.zeros(len(captions), len(columns))
    for row, words in enumerate(words_of_images):
        for word in words & columns.keys():
            bags[row, columns[word]] = math.log(len(captions) / counts[word])
    return normalize(bags, dim=-1)


def _most_similar(bags: Float[Tensor, "images words"], number: int) -> Int[Tensor, "images number"]:
    indices = [torch.empty(0, number, dtype=torch.long)]
    for start in range(0, len(bags), _ROWS_AT_ONCE):
        cosines = bags[start : start + _ROWS_AT_ONCE] @ bags.T
        cosines.diagonal(start).fill_(-torch.inf)  # an image is not similar to itself
        indices.append(cosines.topk(number, dim=-1).indices)
    return torch.cat(indices)
