"""Captioned images in shards, indexed once. A picture is read from its shard when it is opened.

Broken samples are left out, counted and logged. A shard that cannot be read at all is a UserError that names it.
:func:`flamingo.data.sources.readable` finds the pictures that cannot be opened.
"""

import json
import logging
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from flamingo.data.document import Image, Readable
from flamingo.data.records.record import LazySequence, Record, by_reason
from flamingo.data.splits import ROLES
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """A sample of a shard."""

    id: str
    captions: tuple[str, ...]
    #: The place of the picture in the file, for its frame.
    location: tuple[Any, ...]
    #: None if the sample names no split.
    split: str | None


class Broken(NamedTuple):
    """A sample that is left out. With the file's name as ``id`` the reason is a defect of the file."""

    id: str
    reason: str


class Shards(LazySequence):
    """The samples of all files, in the order of the files' names.

    ``skipped`` has the reason for each sample that was left out, and for each file that is cut off. The split that
    a sample names takes precedence over the split of the file's name. The index is one buffer with one JSON text of
    some hundred bytes per sample. Forked workers share it.
    """

    def __init__(
        self,
        files: Iterable[str | Path],
        samples: Callable[[str], Iterator[Sample | Broken]],
        frame: Callable[..., Readable],
        splits: Mapping[str, str | None] | None = None,
    ) -> None:
        """Indexes all samples of the files.

        Args:
            files: The shards.
            samples: Yields the samples of a file.
            frame: Makes the image to open from a file and a sample's ``location``.
            splits: The split of each file; None: that of its name.

        Raises:
            UserError: If a file cannot be read, a split has an id twice, or no sample is complete.
        """
        self.files = sorted(map(str, files))
        self.splits = [split_of(file) if splits is None else splits[file] for file in self.files]
        self.skipped: dict[str, str] = {}
        self._frame = frame
        self._index, self._ends = bytearray(), array("Q", [0])
        holders: dict[tuple[str | None, str], str] = {}
        for number, file in enumerate(tqdm(self.files, "indexing", unit=" shards", delay=5)):
            self._add(number, file, map(_with_text_id, samples(file)), holders)
        if not len(self):
            reasons = "".join(f"; {id}: {reason}" for id, reason in list(self.skipped.items())[:3])
            raise UserError(f"there is no complete sample in {', '.join(self.files) or 'no file'}{reasons}")

    def _add(
        self, number: int, file: str, samples: Iterator[Sample | Broken], holders: dict[tuple[str | None, str], str]
    ) -> None:
        """Adds the samples of a file to the index, and (split, id) -> file to ``holders``.

        Raises:
            UserError: If a split has an id twice.
        """
        broken: dict[str, str] = {}
        for sample in samples:
            split = sample.split if isinstance(sample, Sample) else None
            split_and_id = split or self.splits[number], sample.id
            if split_and_id in holders:
                raise UserError(f"the id {sample.id!r} is in {holders[split_and_id]} and again in {file}")
            holders[split_and_id] = file
            if isinstance(sample, Broken):
                broken[sample.id] = sample.reason
            else:
                self._index += json.dumps([number] + list(sample)).encode()
                self._ends.append(len(self._index))
        if broken:
            log.warning("%s: left out %d: %s", file, len(broken), by_reason(broken))
        for id, reason in broken.items():
            id_is_taken = id in self.skipped  # by a sample of another split
            self.skipped[f"{file}: {id}" if id_is_taken else id] = reason

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, index: int) -> Record:
        """Returns the record at ``index``, which lies in [0, len)."""
        text = self._index[self._ends[index] : self._ends[index + 1]]
        number, id, captions, location, split = json.loads(text)
        image = Image(self._frame(self.files[number], *location))
        return Record(id, image, tuple(captions), split or self.splits[number])


def _with_text_id(sample: Sample | Broken) -> Sample | Broken:
    """Returns the sample. It is broken if its id has another encoding, which no file of results can hold."""
    try:
        sample.id.encode()
    except UnicodeEncodeError:
        return Broken(sample.id.encode("utf-8", "backslashreplace").decode(), "its name is not UTF-8")
    return sample


def split_of(file: str) -> str | None:
    """Returns the split that a shard's name gives: the word before its number, or a name that is a split's.

    "train" for ``train-000017.tar``, ``train-00017-of-00100.parquet`` and ``train.parquet``; None for other names.
    """
    name = Path(file).name
    match = re.match(r"([A-Za-z]+)[-_]\d", name)
    if match:
        return match[1]
    stem = name.partition(".")[0]
    return stem if stem.lower() in ROLES else None
