"""A folder, file or pattern -> its format, recognised by names and contents, and the files to read."""

import fnmatch
import glob
from collections.abc import Iterable
from pathlib import Path

from flamingo.data.readers import READERS
from flamingo.data.readers.candidate import Candidate
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

#: A format, and the files to read, or the folder if the format is a folder.
FormatAndFiles = tuple[str, list[Path]]


def recognise(root: str, format: str | None, questions: bool | None = None) -> FormatAndFiles:
    """Returns the format of the data at ``root``, and the files to read.

    Args:
        root: A folder, a file, or a glob.
        format: A name of :data:`READERS`; None: any.
        questions: Whether questions, or else captions, are preferred where a folder has both; None: neither.

    Raises:
        UserError: If no data set, or more than one, is recognised.
    """
    if not Path(root).is_dir():
        return _file_or_glob(root, format)
    if format is not None and not READERS[format].files:
        return format, [Path(root)]
    candidates: dict[str, FormatAndFiles] = {}
    for label, candidate in _inside(Path(root)).items():
        if format is None or format == candidate[0]:
            candidates[label] = candidate
    if not candidates:
        raise UserError(_not_understood(root, format))
    preferred = {label: found for label, found in candidates.items() if READERS[found[0]].has_questions == questions}
    candidates = preferred or candidates
    if len(candidates) > 1:
        labels = ", ".join(f"{label} ({name})" for label, (name, _) in candidates.items())
        raise UserError(f"{root} has several data sets, {labels}: name one of them, a glob in quotes, or the format")
    return candidates.popitem()[1]


def _file_or_glob(root: str, format: str | None) -> FormatAndFiles:
    # pathlib's glob takes no absolute pattern.
    files = [Path(root)] if Path(root).exists() else sorted(map(Path, glob.glob(root, recursive=True)))  # noqa: PTH207
    if not files:
        raise UserError(f"there is nothing at {root}")
    name = format or recognised(files[0])
    if name is None:
        raise UserError(_not_understood(str(files[0]), format))
    if len(files) > 1 and not READERS[name].sharded:
        sharded = " and ".join(name for name, reader in READERS.items() if reader.sharded)
        raise UserError(f"{root} names {len(files)} files of the format {name}; only {sharded} may be several files")
    return name, [files[0].parent] if READERS[name].is_folder else files


def _inside(folder: Path) -> dict[str, FormatAndFiles]:
    """Returns the data sets of a folder. Its shards of one format are one data set: their names give the splits."""
    candidates: dict[str, FormatAndFiles] = {}
    for file in _without_superfluous(_named_as_any(folder)):
        name = recognised(file)
        if name is None or not _may_lie(name, file, folder):
            continue
        if READERS[name].is_folder:
            candidates[str(folder)] = name, [folder]
            continue
        label = str(file.with_name(f"*{file.suffix}") if READERS[name].sharded else file)
        _, files_of_label = candidates.setdefault(label, (name, []))
        files_of_label.append(file)
    return candidates


def _named_as_any(folder: Path) -> set[Path]:
    """Returns the files of a folder whose names match a format."""
    # List the folder once for all patterns: it may have a million images.
    names = [path.name for path in folder.iterdir()]
    files: set[Path] = set()
    for format in READERS.values():
        for pattern in format.files:
            if "/" in pattern:
                files.update(folder.glob(pattern))
            else:
                files.update(folder / name for name in fnmatch.filter(names, pattern))
    return files


def _may_lie(name: str, file: Path, folder: Path) -> bool:
    """Returns whether a file of this format may lie there: in the folder, or below it if a pattern says so.

    A format without patterns lies in no folder.
    """
    if file.parent == folder:
        return bool(READERS[name].files)
    return any("/" in pattern and file.match(pattern) for pattern in READERS[name].files)


def _without_superfluous(files: Iterable[Path]) -> list[Path]:
    """Returns the files, sorted, without folders and without files that other files make superfluous.

    img2dataset writes for ``00000.tar``, or for the folder ``00000``, also ``00000.parquet``, the list of its URLs, and
    ``00000_stats.json``, which an unfinished shard lacks. Flickr8k has its captions a second time, in lemmas. An image
    folder may have other files ``metadata.*``.
    """
    candidates = {file for file in files if not file.is_dir()}
    with_stats = {file.parent for file in candidates if file.name.endswith("_stats.json")}
    with_texts = {file.parent for file in candidates if file.suffix == ".txt"}
    superfluous: set[Path] = set()
    for file in candidates:
        if file.parent in with_stats and file.suffix in (".tar", ".parquet"):
            superfluous.add(file.with_name(f"{file.stem}_stats.json"))
            if file.suffix == ".tar" or file.with_suffix("") in with_texts:
                superfluous.add(file.with_suffix(".parquet"))
        if file.name == "Flickr8k.token.txt":
            superfluous.add(file.with_name("Flickr8k.lemma.token.txt"))
        if file.stem == "metadata" and not _has_name_of("image_folder", file):
            superfluous.add(file)
    return sorted(candidates - superfluous)


def recognised(file: Path) -> str | None:
    """Returns a file's format, by its content unless its name decides; None if it is none of :data:`READERS`."""
    for name, format in READERS.items():
        if format.recognise is None and _has_name_of(name, file):
            return name
    candidate = Candidate(file)
    for name, format in READERS.items():
        if format.recognise is not None and import_name(format.recognise)(candidate):
            return name
    return None


def _has_name_of(name: str, file: Path) -> bool:
    return any(file.match(pattern) for pattern in READERS[name].files)


def _not_understood(root: str, format: str | None) -> str:
    formats = "".join(f"\n  {name}: {reader.looks}" for name, reader in READERS.items())
    wanted = f" as {format}" if format else ""
    return f"{root} has no data that can be read{wanted}; the formats are{formats}"
