"""A folder, file or pattern -> the captioned images of a source, in any known format."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tqdm import tqdm

from flamingo.data.hub_datasets import downloaded, is_hub_dataset
from flamingo.data.readers import READERS, Location
from flamingo.data.readers.entries import MissingImagesError
from flamingo.data.readers.shards import Shards
from flamingo.data.recognition import recognise
from flamingo.data.records.record import LazySequence, Subset, by_reason
from flamingo.data.source_config import SourceConfig
from flamingo.data.source_keys import SourceKeys
from flamingo.data.splits import MadeSplits, of_split, with_splits
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)


def open_source(
    root: str,
    images: str | None = None,
    format: str | None = None,
    captions_only: bool = False,
    skips_missing: bool = False,
    questions: bool | None = False,
    keeps_rejected: bool = False,
    needs_captions: bool = True,
) -> LazySequence:
    """Returns the records of a folder, a file or a glob of shards, in one of the formats of :data:`READERS`.

    Args:
        root: The folder, file or glob, or a data set of the hub: ``hf://datasets/OWNER/NAME``.
        images: The folder of the images; None: search around the file of captions.
        format: The format; None: recognise it.
        captions_only: Whether only captions are needed: a file of captions is then read without its images.
        skips_missing: Whether images whose files do not exist are left out and counted.
        questions: Whether the data must be questions about images; False: captioned images; None: either.
        keeps_rejected: Whether captions that the data mark as unusable are read, too.
        needs_captions: Whether the records must have captions, or answers where these are known.

    Raises:
        UserError: If no data set, or more than one, is recognised, if it is of the other sort, and whatever the
            format's reader raises.
    """
    if format is not None and format not in READERS:
        raise UserError(f"format must be one of {', '.join(READERS)}, got {format!r}")
    place = downloaded(root) if is_hub_dataset(root) else root
    name, files = recognise(place, format, questions)
    reader = READERS[name]
    if questions is not None and reader.has_questions != questions:
        raise UserError(f"{root} has {_sort(reader.has_questions)}, but {_sort(questions)} are needed")
    if needs_captions and not reader.has_captions:
        raise UserError(f"{root} lists images without captions, but captions are needed")
    _log_format(root, name)
    if images is not None and reader.has_images:
        raise UserError(f"images={images} has no effect: the format {name} defines where its images are")
    location = Location(tuple(files), Path(images) if images else None, captions_only, skips_missing, keeps_rejected)
    return import_name(reader.reader)(location)


def _sort(questions: bool) -> str:
    """Returns the name of a sort of data."""
    return "questions with answers" if questions else "captions"


@cache
def _log_format(root: str, name: str) -> None:
    """Logs how a source is read, once: a command opens it for each split, and to choose values."""
    log.info("%s is read as %s: %s", root, name, READERS[name].looks)


def readable(source: LazySequence) -> tuple[LazySequence, dict[str, str]]:
    """Returns the records whose images can be opened, and id -> the reason for the others. Opens all images once."""
    broken = dict(_broken(source))
    skipped = {source[index].id: f"the picture cannot be opened: {error}" for index, error in broken.items()}
    if skipped:
        log.warning("left out %d broken images: %s", len(skipped), by_reason(skipped))
    return Subset(source, [index for index in range(len(source)) if index not in broken]), skipped


def check_pictures(source: LazySequence, root: str, keys: SourceKeys) -> None:
    """Checks that all images can be opened. Opens all of them.

    Raises:
        UserError: If some cannot be opened; the error has the first file, their number, and the keys of the source.
    """
    broken = list(_broken(source))
    if broken:
        _, first = broken[0]
        raise UserError(
            f"{keys.root}={root}: {first}; {len(broken)} of {len(source)} images cannot be opened: repair or remove "
            f"them, or set {keys.named('broken_images')}=skip"
        )


@dataclass
class SourceSplit:
    """The records of a source or of one of its splits, and id -> the reason why another image was left out."""

    records: LazySequence
    skipped: dict[str, str]
    #: All records of the source or split, before any image was opened.
    listed: LazySequence
    #: Id -> the reason why captions of the image were shortened.
    shortened: dict[str, str] = field(default_factory=dict)


def list_split(
    root: str,
    config: SourceConfig,
    split: str | None,
    keys: SourceKeys | None = None,
    questions: bool | None = False,
    needs_captions: bool = True,
) -> LazySequence:
    """Returns the records of a source, or of one of its splits. No image is opened.

    Args:
        root: A folder, a file, a glob of shards, or a data set of the hub.
        config: How the source is read.
        split: The split; None: all of them.
        keys: The keys that errors name.
        questions: Whether the data must be questions about images; False: captioned images; None: either.
        needs_captions: Whether the records must have captions, or answers where these are known.

    Raises:
        UserError: If the source cannot be read, or has no such split.
    """
    keys = keys or SourceKeys()
    skips_missing = config.broken_images == "skip"
    try:
        source = open_source(
            root,
            config.images,
            config.format,
            skips_missing=skips_missing,
            questions=questions,
            keeps_rejected=config.rejected_captions == "keep",
            needs_captions=needs_captions,
        )
    except MissingImagesError as error:
        fix = f"add or remove them, or set {keys.named('broken_images')}=skip"
        raise UserError(f"{keys.root}={root}: {error}: {fix}") from error
    except UserError as error:
        raise UserError(f"{keys.root}={root}: {error}") from error
    return source if split is None else of_split(with_splits(source, config.splits, keys), split, keys)


def read_split(
    root: str,
    config: SourceConfig | None = None,
    split: str | None = None,
    open_images: bool = True,
    keys: SourceKeys | None = None,
    questions: bool | None = False,
    needs_captions: bool = True,
) -> SourceSplit:
    """Returns the records of a source, or of one of its splits, whose images can be opened.

    Broken images in shards are left out, since users rarely repair a shard. Any other broken image, or an image
    whose file does not exist, is an error, unless the config skips it.

    Args:
        root: A folder, a file, a glob of shards, or a data set of the hub.
        config: How the source is read; None: with the defaults.
        split: The split; None: all of them.
        open_images: Whether images outside shards are opened. A later computation of features opens all of them anyway.
        keys: The keys that errors name.
        questions: Whether the data must be questions about images; False: captioned images; None: either.
        needs_captions: Whether the records must have captions, or answers where these are known.

    Raises:
        UserError: If the source cannot be read, has no such split, or an image cannot be opened.
    """
    config = config or SourceConfig()
    keys = keys or SourceKeys()
    listed = list_split(root, config, split, keys, questions, needs_captions)
    records, skipped = listed, listed.skipped
    if _in_shards(listed) or config.broken_images == "skip":
        records, broken = readable(listed)
        skipped = skipped | broken
        if not records:
            raise UserError(f"{keys.root}={root}: none of {len(listed)} images can be opened: {by_reason(broken)}")
    elif open_images:
        check_pictures(listed, root, keys)
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
            for frame in record.frames:
                open_image(frame)
        except UserError as error:
            yield index, error
