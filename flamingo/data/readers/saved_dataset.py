"""A data set that the library ``datasets`` saved by ``save_to_disk``. Needs pyarrow."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.columns import Columns, image_bytes, pyarrow_module
from flamingo.data.readers.shards import Broken, Sample, Shards
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json, regular_file

#: The file in the folder of each split, and the file in the folder above of several splits.
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_FILES = "_data_files"


def saved_dataset(location: Location) -> Shards:
    """Returns the images of ``state.json`` with ``data-*.arrow``, or of ``dataset_dict.json`` with a folder per split.

    Columns are those of :func:`flamingo.data.readers.parquet_shards.parquet`. An image's id is in the column ``id``,
    by default ``STEM/ROW`` of the file, with the folder of the split before it. A column ``split`` takes precedence
    over the folder's split. The files are mapped into memory: a picture is read without its neighbours, in any order.

    Raises:
        UserError: If a file cannot be read, or pyarrow is missing.
    """
    files = _arrow_files(location.files[0])
    splits = {file: split for file, split, _ in files}
    prefixes = {file: prefix for file, _, prefix in files}

    def samples(file: str) -> Iterator[Sample | Broken]:
        return _samples(file, prefixes[file])

    return Shards(splits, samples, ArrowCell, splits)


def is_saved_dataset(candidate: Candidate) -> bool:
    """Returns whether the file describes a data set, or its splits, as ``datasets`` saves them."""
    if candidate.path.name == _STATE:
        return has_field(candidate.json, _FILES)
    return candidate.path.name == _SPLITS and has_field(candidate.json, "splits")


@dataclass(frozen=True)
class ArrowCell:
    """A picture in a row of an Arrow file."""

    file: str
    column: str
    row: int

    def read_bytes(self) -> bytes:
        """Returns the bytes of the picture's file."""
        return image_bytes(_table(self.file).column(self.column)[self.row].as_py())

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


def _arrow_files(folder: Path) -> list[tuple[str, str | None, str]]:
    """Returns each Arrow file in order, with its split and the prefix of its rows' ids.

    Raises:
        UserError: For a malformed description of the splits.
    """
    if not (folder / _SPLITS).is_file():
        return [(str(file), _split_of_state(folder), file.stem) for file in _files_of(folder)]
    splits = read_json(folder / _SPLITS)["splits"]
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise UserError(f"{folder / _SPLITS} must have a list of names under 'splits', got {splits!r:.80}")
    files: list[tuple[str, str | None, str]] = []
    for split in splits:
        for file in _files_of(folder / split):
            files.append((str(file), split, f"{split}/{file.stem}"))
    return files


def _files_of(folder: Path) -> list[Path]:
    state = read_json(folder / _STATE)
    try:
        return [folder / entry["filename"] for entry in state[_FILES]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / _STATE} must have a list of objects with 'filename' under {_FILES!r}") from error


def _split_of_state(folder: Path) -> str | None:
    split = read_json(folder / _STATE).get("_split")
    return split if isinstance(split, str) and split else None


@lru_cache(maxsize=64)
def _table(file: str) -> Any:
    """Returns the table of a file. Its columns stay on disk until they are read."""
    arrow = pyarrow_module("pyarrow")
    stream = arrow.memory_map(str(regular_file(Path(file))))
    return arrow.ipc.open_stream(stream).read_all()


def _samples(file: str, prefix: str) -> Iterator[Sample | Broken]:
    try:
        table = _table(file)
        columns = Columns(table.schema)
        number = 0
        for batch in table.select(columns.texts).to_batches():
            for values in batch.to_pylist():
                yield columns.sample(values, f"{prefix}/{number}", (columns.image, number))
                number += 1
    except (UserError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UserError(f"{file} cannot be read: {error}") from error
