"""A folder, file or pattern -> the captioned images of a source, in any known format."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from flamingo.data.hub_datasets import downloaded, is_hub_dataset
from flamingo.data.readers import READERS, Location
from flamingo.data.readers.shards import Shards
from flamingo.data.recognition import recognise
from flamingo.data.record import LazySequence, Subset, by_reason
from flamingo.data.source_config import SourceConfig
from flamingo.data.splits import MadeSplits, of_split, with_splits
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)


def open_source(
    root: str, images: str | None = None, format: str | None = None, captions_only: bool = False
) -> LazySequence:
    """Returns the records of a folder, a file or a glob of shards, in one of the formats of :data:`READERS`.

    Args:
        root: The folder, file or glob, or a data set of the hub: ``hf://datasets/OWNER/NAME``.
        images: The folder of the images; by default it is searched around the file of captions.
        format: By default it is recognised.
        captions_only: Whether only captions are needed: a file of captions is then read without its images.

    Raises:
        UserError: Where nothing, or more than one thing, is recognised, and whatever the format's reader raises.
    """
    if format is not None and format not in READERS:
        raise UserError(f"format must be one of {', '.join(READERS)}, got {format!r}")
    place = downloaded(root) if is_hub_dataset(root) else root
    name, files = recognise(place, format)
    reader = READERS[name]
    log.info("%s is read as %s: %s", root, name, reader.looks)
    if images is not None and reader.has_images:
        raise UserError(f"images={images} is of no use: the format {name} says where its images are")
    location = Location(tuple(files), Path(images) if images else None, captions_only)
    return import_name(reader.reader)(location)


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
        raise UserError(
            f"{first}; {len(broken)} of {len(source)} images cannot be opened: repair or remove them, or say "
            "broken_images=skip"
        )


@dataclass
class SourceSplit:
    """The records of a source, or of one split of it, and by id why others were left out."""

    records: LazySequence
    skipped: dict[str, str]
    #: All records that the source, or the split, names, before any image was opened.
    listed: LazySequence
    #: By id how captions of the records were shortened.
    shortened: dict[str, str] = field(default_factory=dict)


def list_split(root: str, config: SourceConfig, split: str | None) -> LazySequence:
    """Returns the records that a source, or one split of it, names. No image is opened.

    Raises:
        UserError: For a source that cannot be read.
    """
    source = open_source(root, config.images, config.format)
    return source if split is None else of_split(with_splits(source, config.splits), split)


def read_split(
    root: str, config: SourceConfig | None = None, split: str | None = None, open_images: bool = True
) -> SourceSplit:
    """Returns the records of a source, or of one split of it, whose images can be opened.

    Broken images in shards are left out, since nobody repairs one of millions of samples. Any other broken image is an
    error, unless the config says that it is skipped.

    Args:
        root: A folder, a file, a glob of shards, or a data set of the hub.
        config: How it is read; None: by default.
        split: None: all of them.
        open_images: Whether images outside shards are opened, too. Computing features opens all.

    Raises:
        UserError: For a source that cannot be read, and for an image that cannot be opened.
    """
    config = config or SourceConfig()
    listed = list_split(root, config, split)
    records, skipped = listed, listed.skipped
    if _in_shards(listed) or config.broken_images == "skip":
        records, broken = readable(listed)
        skipped = skipped | broken
        if not records:
            raise UserError(f"{root}: none of {len(listed)} images can be opened: {by_reason(broken)}")
    elif open_images:
        check_pictures(listed)
    name = "all splits" if split is None else f"split {split}"
    log.info("%s: %d images of %s, %d left out", root, len(records), name, len(skipped))
    return SourceSplit(records, skipped, listed)


def _in_shards(listed: LazySequence) -> bool:
    source = listed
    while isinstance(source, Subset | MadeSplits):
        source = source.source
    return isinstance(source, Shards)


def _broken(source: LazySequence) -> Iterator[tuple[int, UserError]]:
    """Yields the index of each record whose image cannot be opened, and the error."""
    for index, record in enumerate(tqdm(source, "opening", unit=" images")):
        try:
            for frame in record.image.frames:
                open_image(frame)
        except UserError as error:
            yield index, error
