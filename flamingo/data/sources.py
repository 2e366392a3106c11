"""One's own data by one line: captioned images of any known layout, found by what is there."""

import glob
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flamingo.data.readers.flickr import flickr, flickr_kind
from flamingo.data.readers.parquet_shards import parquet
from flamingo.data.readers.tar_shards import tar
from flamingo.data.record import (
    CaptionedImage,
    Entry,
    Lazy,
    by_reason,
    coco,
    collected,
    image_folder,
    jsonl,
    karpathy,
    metadata_files,
    usable_captions,
)
from flamingo.data.rows import lines, read_json
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from flamingo.utils.io import parse_json

log = logging.getLogger(__name__)

_FILES: dict[str, Callable[[Path], list[Entry]]] = {
    "coco": coco,
    "karpathy": karpathy,
    "flickr": flickr,
    "jsonl": jsonl,
    "image_folder": image_folder,
}
_SHARDS = {"tar": tar, "parquet": parquet}
#: The formats and what they look like, as errors say it.
FORMATS = {
    "coco": "COCO's captions_*.json",
    "karpathy": "Karpathy's dataset_*.json",
    "flickr": "Flickr8k's captions.txt or Flickr8k.token.txt, "
    "Flickr30k's captions.txt, results.csv or results_20130124.token",
    "jsonl": 'rows {"image": NAME, "captions": [...]} in a .jsonl',
    "image_folder": "a folder with metadata.jsonl or metadata.csv, file_name and text in each row",
    "tar": "WebDataset's .tar shards, KEY.jpg with KEY.json or KEY.txt",
    "parquet": ".parquet shards with the columns image and captions, caption or text",
}


def load(root: str, images: str | None = None, format: str | None = None) -> Lazy:
    """Return the captioned images of a folder, a file or a glob of shards, in one of :data:`FORMATS`.

    Args:
        root: The folder, file or glob.
        images: The folder of the photographs; by default it is searched around the file of captions.
        format: By default it is recognised.

    Raises:
        UserError: Where nothing, or more than one thing, is recognised, and whatever the format's reader raises.
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    found, files = _found(root, format)
    log.info("%s is read as %s: %s", root, found, FORMATS[found])
    if images is not None and (found in _SHARDS or found == "image_folder"):
        raise UserError(f"images={images} is of no use: the format {found} says where its images are")
    if found in _SHARDS:
        return _SHARDS[found](files)
    entries = _FILES[found](files[0])
    folder = files[0] if found == "image_folder" else Path(images) if images else None
    return collected(files[0], entries, folder)


def load_captions(root: str) -> tuple[list[tuple[str, tuple[str, ...]]], dict[str, str]]:
    """Return the id and the captions of each image of a source, and by id why others are left out.

    A file of captions needs no photographs here. Raises UserError as :func:`load` does.
    """
    found, files = _found(root, None)
    if found in _SHARDS:
        source = _SHARDS[found](files)
        return [(image.id, image.captions) for image in source], source.skipped
    usable, skipped = usable_captions(files[0], _FILES[found](files[0]))
    return list(usable.items()), skipped


def of_split(source: Lazy, split: str) -> Lazy:
    """Return the images of one split. Raises UserError, with the known splits, where there are none."""
    splits = [image.split for image in source]
    if split not in splits:
        known = ", ".join(sorted({name for name in splits if name is not None})) or "none"
        raise UserError(f"there is no split {split!r}; there are: {known}")
    return Chosen(source, [place for place, name in enumerate(splits) if name == split])


def readable(source: Lazy) -> tuple[Lazy, dict[str, str]]:
    """Return the images whose pictures can be opened, and by id why the others cannot. Opens all of them once."""
    broken = dict(_broken(source))
    skipped = {source[place].id: f"the picture cannot be opened: {error}" for place, error in broken.items()}
    if skipped:
        log.warning("left out %d broken images: %s", len(skipped), by_reason(skipped))
    return Chosen(source, [place for place in range(len(source)) if place not in broken]), skipped


def check_pictures(source: Lazy) -> None:
    """Raise UserError, with the first one's file and their number, for pictures that cannot be opened. Opens all."""
    broken = list(_broken(source))
    if broken:
        _, first = broken[0]
        raise UserError(f"{first}; {len(broken)} of {len(source)} images cannot be opened: repair or remove them")


def _broken(source: Lazy) -> Iterator[tuple[int, UserError]]:
    """The place of each image whose picture cannot be opened, and why."""
    for place, image in enumerate(tqdm(source, "opening", unit=" images")):
        try:
            for frame in image.image.frames:
                open_image(frame)
        except UserError as error:
            yield place, error


class Chosen(Lazy):
    """Some of a source's images, by their places."""

    def __init__(self, source: Lazy, places: Sequence[int]) -> None:
        self.source, self.skipped = source, source.skipped
        self._places = np.array(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def item(self, place: int) -> CaptionedImage:
        return self.source[int(self._places[place])]


# ----------------------------------------------------------------------------- recognition


#: A format, and the files to read; the folder for an image folder.
_Found = tuple[str, list[Path]]


def _found(root: str, format: str | None) -> _Found:
    if not Path(root).is_dir():
        return _named(root, format)
    candidates = {shown: found for shown, found in _inside(Path(root)).items() if format in (None, found[0])}
    if not candidates:
        raise UserError(_not_understood(root, format))
    if len(candidates) > 1:
        shown = ", ".join(f"{shown} ({name})" for shown, (name, _) in candidates.items())
        raise UserError(
            f"{root} has more than one thing to read, {shown}: give one of them, a glob in quotes, or the format"
        )
    return candidates.popitem()[1]


def _named(root: str, format: str | None) -> _Found:
    """A file, or what a glob names."""
    # pathlib's glob takes no absolute pattern.
    files = [Path(root)] if Path(root).exists() else sorted(map(Path, glob.glob(root, recursive=True)))  # noqa: PTH207
    if not files:
        raise UserError(f"there is nothing at {root}")
    name = format or recognised(files[0])
    if name is None:
        raise UserError(_not_understood(str(files[0]), format))
    if len(files) > 1 and name not in _SHARDS:
        raise UserError(f"{root} names {len(files)} files, which only tar and parquet shards may be; these are {name}")
    return name, [files[0].parent] if name == "image_folder" else files


def _inside(folder: Path) -> dict[str, _Found]:
    """What a folder has that can be read. Its shards of one kind belong together: their names tell splits apart."""
    found: dict[str, _Found] = {}
    if metadata_files(folder):
        found[str(folder)] = "image_folder", [folder]
    below = [file for pattern in _BELOW for file in folder.glob(pattern)]
    for file in _candidates([*folder.iterdir(), *below]):
        name = recognised(file)
        if name is not None:
            shown = f"*{file.suffix}" if name in _SHARDS else file.name
            found.setdefault(str(file.with_name(shown)), (name, []))[1].append(file)
    return found


#: Files of captions in folders of their own, as they are distributed.
_BELOW = ("annotations/captions_*.json", "Flickr8k_text/*.token.txt")


def _candidates(files: Iterable[Path]) -> list[Path]:
    """The files that may hold captions, without those that others make superfluous.

    img2dataset leaves for ``00000.tar`` also ``00000.parquet``, the list of its addresses, and ``00000_stats.json``.
    Flickr8k has its captions a second time, in lemmas.
    """
    found = {file for file in files if file.name.endswith(_SUFFIXES) and file.stem != "metadata" and not file.is_dir()}
    superfluous = set()
    for file in found:
        shard = file.with_name(file.name.removesuffix("_stats.json"))
        if shard != file and shard.with_name(f"{shard.name}.tar") in found:
            superfluous |= {file, shard.with_name(f"{shard.name}.parquet")}
        if file.name == "Flickr8k.token.txt":
            superfluous.add(file.with_name("Flickr8k.lemma.token.txt"))
    return sorted(found - superfluous)


_TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # The compressed ones are its reader's to refuse.
_SUFFIXES = (*_TAR, ".parquet", ".json", ".jsonl", ".txt", ".csv", ".token")


def recognised(file: Path) -> str | None:
    """Return a file's format, by its content where the suffix leaves it open; None where it is none of ours."""
    if file.name.endswith(_TAR):
        return "tar"
    if file.suffix == ".parquet":
        return "parquet"
    if file.stem == "metadata":
        return "image_folder"
    if file.suffix == ".json":
        data = read_json(file)
        first = {key: rows[0] for key, rows in data.items() if rows and isinstance(rows, list)} if _is(data) else {}
        if _is(first.get("annotations"), "caption"):
            return "coco"
        return "karpathy" if _is(first.get("images"), "sentences") else None
    try:
        _, line = next(lines(file), ("", ""))
        return "flickr" if flickr_kind(line) else "jsonl" if _is(parse_json(line, str(file)), "image") else None
    except UserError:  # neither text nor JSON
        return None


def _is(value: object, *fields: str) -> bool:
    """Whether it is a JSON object with these fields."""
    return isinstance(value, dict) and all(field in value for field in fields)


def _not_understood(root: str, format: str | None) -> str:
    understood = "".join(f"\n  {name}: {looks}" for name, looks in FORMATS.items())
    return f"{root} has nothing that is understood{f' as {format}' if format else ''}; that would be{understood}"
