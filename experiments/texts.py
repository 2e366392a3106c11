"""Texts to pretrain a language model on: read from files and sources, and put together as documents."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import normalize

from experiments.tokenizer import END_OF_TEXT
from flamingo.data.document import PROMPT
from flamingo.data.record import Entry, by_reason, captions_in, usable_captions
from flamingo.data.rows import lines, records
from flamingo.data.sources import load_captions, recognised
from flamingo.utils.errors import UserError

#: Images are alike by the commonest words of their captions; rarer ones hardly ever meet.
_WORDS = 2048
#: Of how many similar images those of a document are drawn: the first ones are more alike than neighbours by features.
_SIMILAR = 64
#: How many of them a document has before the image that they are similar to.
_BEFORE = 8
#: Images that are compared with each other at most: their bags of words take 8 kB each, the time is its square.
_COMPARED = 40_000
#: Rows of a similarity matrix that are in memory at once.
_ROWS_AT_ONCE = 1024


#: A text; or the captions of an image.
Said = str | tuple[str, ...]


def read_texts(name: str) -> tuple[list[Said], dict[str, str]]:
    """Return the texts of a file, or of a source the captions of each image; and why others are left out.

    A ``.jsonl`` file has a ``text``, ``captions`` or a ``caption`` in each row. A ``.txt`` file is a document a line,
    unless it is one of Flickr's files of captions. Both may be compressed (``.gz``). All else is read as
    ``data.root`` is; no photographs are needed. What has an end-of-text token in it is left out, as is what is empty.

    Raises:
        UserError: For a file that cannot be read, and for a row that has no text, with its line.
    """
    path = Path(name)
    file = path.name.removesuffix(".gz")
    skipped: dict[str, str] = {}
    found: list[tuple[str, Said]]
    if file.endswith(".jsonl"):
        found, skipped = _rows(path)
    elif file.endswith(".txt") and recognised(path) != "flickr":
        found = list(lines(path))
    else:
        found, skipped = load_captions(name)
    texts = []
    for where, said in found:
        if END_OF_TEXT in "".join(said):
            skipped[where] = f"a text has a special token: {END_OF_TEXT}"
        else:
            texts.append(said)
    if not texts:
        raise UserError(f"texts: {name} has nothing to read{f': {by_reason(skipped)}' if skipped else ''}")
    return texts, skipped


def _rows(path: Path) -> tuple[list[tuple[str, Said]], dict[str, str]]:
    """The text or the captions of each row, with its place; and why others cannot be used."""
    texts: dict[str, str] = {}
    entries = []
    for where, row in records(path):
        fields = ("text",) if "text" in row else ("captions", "caption")
        entries.append(Entry(where, where, "", captions_in(row, fields, where)))
        if "text" in row:
            texts[where] = row["text"]
    captions, skipped = usable_captions(path, entries)
    return [(where, texts.get(where, own)) for where, own in captions.items()], skipped


class Documents:
    """Texts as they are, and captions as they stand in a prompt, a line each; ``rounds`` times, in other orders.

    Each iteration makes the same documents again, one at a time: memory does not grow with ``rounds``.

    A third of the documents of captions are of one image, a third of an image and others like it, a third of any
    images: what comes before may tell what comes next, or some of it, or only how it is said. (To put related
    texts together is In-Context Pretraining, arXiv 2310.10638; here it is for demonstrations by RICES.)
    """

    def __init__(self, texts: Sequence[Said], rounds: int, seed: int) -> None:
        self._texts, self._rounds, self._seed = texts, rounds, seed
        self._described = [captions for captions in texts if not isinstance(captions, str)]
        numbers = [number for number, text in enumerate(texts) if not isinstance(text, str)]
        number_similar = max(0, min(_SIMILAR, len(self._described) - 1))
        alike = similar(self._described, number_similar).numpy()
        self._alike = dict(zip(numbers, alike, strict=True))

    def __len__(self) -> int:
        return self._rounds * len(self._texts)

    def __iter__(self) -> Iterator[str]:
        rng = random.Random(self._seed)
        for _ in range(self._rounds):
            for number in rng.sample(range(len(self._texts)), len(self._texts)):
                text = self._texts[number]
                yield text if isinstance(text, str) else self._prompt(rng, text, number)

    def _prompt(self, rng: random.Random, captions: tuple[str, ...], number: int) -> str:
        described = self._described
        match rng.choice(("one", "similar", "any")):
            case "one":
                lines = rng.sample(captions, len(captions))
            case "similar":
                near = self._alike[number].tolist()
                others = rng.sample(near, min(_BEFORE, len(near)))
                lines = [*(rng.choice(described[other]) for other in others), rng.choice(captions)]
            case "any":
                lines = [rng.choice(rng.choice(described)) for _ in captions]
        return "".join(f"{PROMPT} {line}\n" for line in lines)


def similar(described: Sequence[Sequence[str]], number: int) -> Int[Tensor, "images number"]:
    """For each image the places of others whose captions have the most in common with its own, the most similar first.

    By the cosine of which words there are, weighted by the logarithm of their rarity (TF-IDF, without counts). Of
    very many images each is compared with some tens of thousands, those that stand near it. ``number`` is less than
    there are images.
    """
    parts = torch.arange(len(described)).tensor_split(math.ceil(len(described) / _COMPARED) or 1)
    return torch.cat([part[_similar([described[i] for i in part.tolist()], number)] for part in parts])


def _similar(described: Sequence[Sequence[str]], number: int) -> Int[Tensor, "images number"]:
    words = [set(re.findall(r"\w+", " ".join(captions).lower())) for captions in described]
    found = Counter(word for own in words for word in own)
    column = {word: place for place, (word, _) in enumerate(found.most_common(_WORDS))}
    bags = torch.zeros(len(described), len(column))
    for row, own in enumerate(words):
        for word in own & column.keys():
            bags[row, column[word]] = math.log(len(described) / found[word])
    bags = normalize(bags, dim=-1)
    nearest = [torch.empty(0, number, dtype=torch.long)]
    for start in range(0, len(bags), _ROWS_AT_ONCE):
        cosines = bags[start : start + _ROWS_AT_ONCE] @ bags.T
        cosines.diagonal(start).fill_(-torch.inf)  # itself
        nearest.append(cosines.topk(number, dim=-1).indices)
    return torch.cat(nearest)
