"""A folder, file or pattern -> its format, recognised by names and contents, and the files to read."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flamingo.data.readers import READERS
from flamingo.data.readers.flickr import flickr_kind
from flamingo.data.readers.image_folder import metadata_files
from flamingo.data.rows import lines, read_json
from flamingo.utils.errors import UserError
from flamingo.utils.io import parse_json

#: A format, and the files to read; the folder for an image folder.
FormatAndFiles = tuple[str, list[Path]]

#: Files of captions in folders of their own, as they are distributed.
_BELOW = ("annotations/captions_*.json", "Flickr8k_text/*.token.txt")
_TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # The reader refuses compressed ones.
_SUFFIXES = _TAR + (".parquet", ".json", ".jsonl", ".txt", ".csv", ".token")


def recognise(root: str, format: str | None) -> FormatAndFiles:
    """Returns the format of what lies at ``root``, and the files to read.

    Args:
        root: A folder, a file, or a glob.
        format: A name of :data:`READERS`; None: any.

    Raises:
        UserError: Where nothing, or more than one thing, is recognised.
    """
    if not Path(root).is_dir():
        return _file_or_glob(root, format)
    candidates: dict[str, FormatAndFiles] = {}
    for label, candidate in _inside(Path(root)).items():
        if format is None or format == candidate[0]:
            candidates[label] = candidate
    if not candidates:
        raise UserError(_not_understood(root, format))
    if len(candidates) > 1:
        labels = ", ".join(f"{label} ({name})" for label, (name, _) in candidates.items())
        raise UserError(
            f"{root} has more than one thing to read, {labels}: give one of them, a glob in quotes, or the format"
        )
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
        raise UserError(f"{root} names {len(files)} files, which only tar and parquet shards may be; these are {name}")
    return name, [files[0].parent] if name == "image_folder" else files


def _inside(folder: Path) -> dict[str, FormatAndFiles]:
    """Returns the data sets of a folder. Its shards of one format are one data set: their names tell splits apart."""
    candidates: dict[str, FormatAndFiles] = {}
    if metadata_files(folder):
        candidates[str(folder)] = "image_folder", [folder]
    files = list(folder.iterdir())
    for pattern in _BELOW:
        files += folder.glob(pattern)
    for file in _without_superfluous(files):
        name = recognised(file)
        if name is None:
            continue
        label = str(file.with_name(f"*{file.suffix}") if READERS[name].sharded else file)
        _, files_of_label = candidates.setdefault(label, (name, []))
        files_of_label.append(file)
    return candidates


def _without_superfluous(files: Iterable[Path]) -> list[Path]:
    """Returns the files that may hold captions, without those that others make superfluous.

    img2dataset writes for ``00000.tar`` also ``00000.parquet``, the list of its addresses, and ``00000_stats.json``.
    Flickr8k has its captions a second time, in lemmas.
    """
    candidates = {file for file in files if file.name.endswith(_SUFFIXES)}
    candidates = {file for file in candidates if file.stem != "metadata" and not file.is_dir()}
    superfluous: set[Path] = set()
    for file in candidates:
        shard = file.with_name(file.name.removesuffix("_stats.json"))
        if shard != file and shard.with_name(f"{shard.name}.tar") in candidates:
            superfluous |= {file, shard.with_name(f"{shard.name}.parquet")}
        if file.name == "Flickr8k.token.txt":
            superfluous.add(file.with_name("Flickr8k.lemma.token.txt"))
    return sorted(candidates - superfluous)


def recognised(file: Path) -> str | None:
    """Returns a file's format, by its content where the suffix leaves it open; None where it is none of ours."""
    if file.name.endswith(_TAR):
        return "tar"
    if file.suffix == ".parquet":
        return "parquet"
    if file.stem == "metadata":
        return "image_folder"
    if file.suffix == ".json":
        return _json_format(read_json(file))
    try:
        _, line = next(lines(file), ("", ""))
        if flickr_kind(line):
            return "flickr"
        return "jsonl" if has_fields(parse_json(line, str(file)), "image") else None
    except UserError:  # neither text nor JSON
        return None


def _json_format(content: Any) -> str | None:
    if _first_has_field(content, "annotations", "caption"):
        return "coco"
    return "karpathy" if _first_has_field(content, "images", "sentences") else None


def _first_has_field(content: Any, key: str, field: str) -> bool:
    """Whether a JSON object has a list under ``key`` whose first element has the field."""
    elements = content.get(key) if isinstance(content, dict) else None
    return isinstance(elements, list) and len(elements) > 0 and has_fields(elements[0], field)


def has_fields(value: object, *fields: str) -> bool:
    """Whether a value is a JSON object with these fields."""
    return isinstance(value, dict) and all(field in value for field in fields)


def _not_understood(root: str, format: str | None) -> str:
    formats = "".join(f"\n  {name}: {reader.looks}" for name, reader in READERS.items())
    wanted = f" as {format}" if format else ""
    return f"{root} has nothing that is understood{wanted}; that would be{formats}"
