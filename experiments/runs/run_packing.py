"""Reads pages or captioned images of a layout and writes them as M4's tar files."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from experiments.cli.command import Job
from experiments.pack_shards import PAGES, PackShardsConfig
from flamingo.data.document import Image, Readable
from flamingo.data.drops import Drops, counts_text
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.img2dataset_store import images_at
from flamingo.data.pages.m4_writer import write_shards
from flamingo.data.pages.page import Page, PageImage
from flamingo.data.records.record import LazySequence, Record
from flamingo.data.sources import open_source
from flamingo.data.streams.shard_index import open_index
from flamingo.data.streams.shard_scan import scan_shards
from flamingo.data.streams.shard_sizes import list_shards
from flamingo.data.transforms.pictures import frame_bytes
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_folder

log = logging.getLogger(__name__)


@dataclass
class Packed:
    """What was packed."""

    shards: list[Path] = field(default_factory=list)
    num_samples: int = 0
    #: Reason -> samples and shards that are left out, and images of pages without a picture.
    drops: Drops = field(default_factory=Drops)


def run_packing(config: PackShardsConfig) -> Packed:
    """Packs the samples.

    Returns:
        What was packed, and what was left out.

    Raises:
        UserError: If the output exists, there is nothing at the root, or no sample can be read. Nothing is written.
    """
    output = Path(config.output)
    if output.exists():
        raise UserError(f"output={output} exists already: choose another folder")
    packed = Packed()
    samples = _samples(config, packed)
    with atomic_folder(output) as folder:
        files = write_shards(samples, folder, config.samples_per_shard)
        if not files:
            reasons = counts_text(packed.drops) or "it is empty"
            raise UserError(f"root={config.root} has no sample that can be read: {reasons}")
    packed.shards = [output / file.name for file in files]
    for shard in packed.shards:
        open_index(shard, "m4" if config.format in PAGES else "m4_pairs", cache=None)
    log.info("%d samples in %d tar files: %s", packed.num_samples, len(packed.shards), output)
    if packed.drops:
        log.info("left out: %s", counts_text(packed.drops))
    return packed


def _samples(config: PackShardsConfig, packed: Packed) -> Iterator[Page] | Iterator[Record]:
    if config.format is None or config.format not in PAGES:
        source = open_source(config.root, config.images, config.format, skips_missing=True)
        return _pairs(source, packed)
    images = images_at(config.images)
    return _pages(config.format, list_shards(config.root, config.format), images, packed)


def _pages(format: str, shards: Sequence[Path], images: Path | UrlStore | None, packed: Packed) -> Iterator[Page]:
    """Yields the pages of all shards, and counts them in ``packed``."""
    for page in scan_shards(shards, format, images, packed.drops, "packing"):
        assert isinstance(page, Page)
        packed.num_samples += 1
        packed.drops.update(_faults(page))
        yield page


def _pairs(source: LazySequence, packed: Packed) -> Iterator[Record]:
    """Yields the records of a source with the bytes of their pictures, and counts them in ``packed``."""
    for reason in source.skipped.values():
        packed.drops[f"image: {_kind(reason)}"] += 1
    for record in tqdm(source, "packing", unit=" images"):
        frame = record.image.frames[0]
        assert isinstance(frame, str | Readable)
        try:
            content = frame_bytes(frame)
        except (OSError, UserError) as error:
            log.warning("an image is left out: %s", error)
            packed.drops["image: the picture cannot be read"] += 1
            continue
        packed.num_samples += 1
        yield replace(record, image=Image(EmbeddedPicture(str(frame), content)))


def _kind(reason: str) -> str:
    """Returns the kind of the fault of a broken sample, with which the reason begins."""
    kind, _, _ = reason.partition(": ")
    return kind


def _faults(page: Page) -> list[str]:
    """Returns why images of a page have no picture."""
    images = [part for part in (*page.parts, *page.unplaced) if isinstance(part, PageImage)]
    return [f"image: {image.fault}" for image in images if image.fault]


def run_job(job: Job[PackShardsConfig]) -> None:
    """Runs the command."""
    run_packing(job.load())
