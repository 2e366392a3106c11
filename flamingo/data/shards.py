"""Captioned images in shards, indexed once; the pictures are read where they lie when they are opened.

Broken samples are left out, counted and logged; a shard that cannot be read at all is a ValueError that
names it. Whether the pictures themselves can be opened shows later; see
:func:`flamingo.data.sources.readable`.
"""

import json
import logging
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from flamingo.data.captions import CaptionedImage, Lazy
from flamingo.data.document import Image, Readable
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """What is found in a shard."""

    id: str
    captions: tuple[str, ...]
    #: Where in the file the picture lies.
    place: tuple[Any, ...]


class Broken(NamedTuple):
    """What is left out, or with the file's name as ``id``, what is wrong with the file."""

    id: str
    reason: str


class Shards(Lazy):
    """The samples of all files, in the order of the files' names.

    ``skipped`` says of each broken sample, or cut-off file, why it was left out. The index is one JSON
    text a sample in one buffer: some hundred bytes each, which forked workers share.
    """

    def __init__(
        self,
        files: Iterable[str | Path],
        samples: Callable[[str], Iterator[Sample | Broken]],
        frame: Callable[..., Readable],
    ) -> None:
        """Raises UserError for a file that cannot be read, an id twice in a split, and if no sample is whole."""
        self.files = sorted(map(str, files))
        self.splits = [split_of(file) for file in self.files]
        self.skipped: dict[str, str] = {}
        self._frame = frame
        self._index, self._ends = bytearray(), array("Q", [0])
        holders: dict[tuple[str | None, str], str] = {}
        for number, file in enumerate(tqdm(self.files, "indexing", unit=" shards", delay=5)):
            broken: dict[str, str] = {}
            for sample in samples(file):
                name = self.splits[number], sample.id
                if name in holders:
                    raise UserError(f"the id {sample.id!r} is in {holders[name]} and again in {file}")
                holders[name] = file
                if isinstance(sample, Broken):
                    broken[sample.id] = sample.reason
                else:
                    self._index += json.dumps([number, *sample]).encode()
                    self._ends.append(len(self._index))
            if broken:
                log.warning("%s: left out %d, the first %s: %s", file, len(broken), *next(iter(broken.items())))
            self.skipped |= broken
        if not len(self):
            reasons = "".join(f"; {id}: {reason}" for id, reason in list(self.skipped.items())[:3])
            raise UserError(f"there is no whole sample in {', '.join(self.files) or 'no file'}{reasons}")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, place: int) -> CaptionedImage:
        number, id, captions, where = json.loads(self._index[self._ends[place] : self._ends[place + 1]])
        return CaptionedImage(id, Image(self._frame(self.files[number], *where)), tuple(captions), self.splits[number])


def split_of(file: str) -> str | None:
    """The word before a shard's number: of ``train-000017.tar`` and ``train-00017-of-00100.parquet`` it is train."""
    named = re.match(r"([A-Za-z]+)[-_]\d", Path(file).name)
    return named[1] if named else None
