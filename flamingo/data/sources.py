"""A folder, file or pattern -> the captioned images of a source, in any known format."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from flamingo.data.readers import READERS, Location
from flamingo.data.readers.shards import Shards
from flamingo.data.recognition import recognise
from flamingo.data.record import LazySequence, Subset, by_reason
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)


def open_source(
    root: str, images: str | None = None, format: str | None = None, captions_only: bool = False
) -> LazySequence:
    """Returns the records of a folder, a file or a glob of shards, in one of the formats of :data:`READERS`.

    Args:
        root: The folder, file or glob.
        images: The folder of the images; by default it is searched around the file of captions.
        format: By default it is recognised.
        captions_only: Whether only captions are needed: a file of captions is then read without its images.

    Raises:
        UserError: Where nothing, or more than one thing, is recognised, and whatever the format's reader raises.
    """
    if format is not None and format not in READERS:
        raise UserError(f"format must be one of {', '.join(READERS)}, got {format!r}")
    name, files = recognise(root, format)
    reader = READERS[name]
    log.info("%s is read as %s: %s", root, name, reader.looks)
    if images is not None and reader.has_images:
        raise UserError(f"images={images} is of no use: the format {name} says where its images are")
    location = Location(tuple(files), Path(images) if images else None, captions_only)
    return import_name(reader.reader)(location)


def of_split(source: LazySequence, split: str) -> LazySequence:
    """Returns the records of one split. Raises UserError, with the known splits, where there are none."""
    splits = [record.split for record in source]
    if split not in splits:
        names = {name for name in splits if name is not None}
        known = ", ".join(sorted(names)) or "none"
        raise UserError(f"there is no split {split!r}; there are: {known}")
    return Subset(source, [index for index, name in enumerate(splits) if name == split])


def readable(source: LazySequence) -> tuple[LazySequence, dict[str, str]]:
    """Returns the records whose images can be opened, and by id why the others cannot. Opens all images once."""
    broken = dict(_broken(source))
    skipped = {source[index].id: f"the picture cannot be opened: {error}" for index, error in broken.items()}
    if skipped:
        log.warning("left out %d broken images: %s", len(skipped), by_reason(skipped))
    return Subset(source, [index for index in range(len(source)) if index not in broken]), skipped


def check_pictures(source: LazySequence) -> None:
    """Raises UserError, with the first file and their number, for images that cannot be opened. Opens all."""
    broken = list(_broken(source))
    if broken:
        _, first = broken[0]
        raise UserError(f"{first}; {len(broken)} of {len(source)} images cannot be opened: repair or remove them")


@dataclass
class SourceSplit:
    """The records of a source, or of one split of it, and by id why others were left out."""

    records: LazySequence
    skipped: dict[str, str]
    #: All records that the source, or the split, names, before any image was opened.
    listed: LazySequence


def list_split(root: str, images: str | None, format: str | None, split: str | None) -> LazySequence:
    """Returns the records that a source, or one split of it, names. No image is opened.

    Raises:
        UserError: For a source that cannot be read.
    """
    source = open_source(root, images, format)
    return source if split is None else of_split(source, split)


def read_split(
    root: str, images: str | None = None, format: str | None = None, split: str | None = None, open_images: bool = True
) -> SourceSplit:
    """Returns the records of a source, or of one split of it, whose images can be opened.

    Broken images in shards are left out, since nobody repairs one of millions of samples. A broken image that a file of
    captions names is an error.

    Args:
        root: A folder, a file, or a glob of shards.
        images: The folder of the images; None: it is searched.
        format: The format of the captions; None: it is recognised.
        split: None: all of them.
        open_images: Whether images that a file of captions names are opened, too. Computing features opens all.

    Raises:
        UserError: For a source that cannot be read, and for an image that cannot be opened.
    """
    listed = list_split(root, images, format, split)
    records, skipped = listed, listed.skipped
    if _in_shards(listed):
        records, broken = readable(listed)
        skipped = skipped | broken
    elif open_images:
        check_pictures(listed)
    name = "all splits" if split is None else f"split {split}"
    log.info("%s: %d images of %s, %d left out", root, len(records), name, len(skipped))
    return SourceSplit(records, skipped, listed)


def _in_shards(listed: LazySequence) -> bool:
    source = listed.source if isinstance(listed, Subset) else listed
    return isinstance(source, Shards)


def _broken(source: LazySequence) -> Iterator[tuple[int, UserError]]:
    """Yields the index of each record whose image cannot be opened, and the error."""
    for index, record in enumerate(tqdm(source, "opening", unit=" images")):
        try:
            for frame in record.image.frames:
                open_image(frame)
        except UserError as error:
            yield index, error
