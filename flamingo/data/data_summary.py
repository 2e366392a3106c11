"""A source of captioned images -> its counts, lengths, sizes, duplicates, and the images that are left out."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as PILImage
from tqdm import tqdm

from flamingo.data.document import Image
from flamingo.data.records.record import LazySequence
from flamingo.data.transforms.pictures import frame_bytes, open_image
from flamingo.utils.errors import UserError

#: The name of the records without a split.
NO_SPLIT = "no split"


@dataclass(frozen=True)
class Quantiles:
    """Five values of a distribution. Each of them occurs in it."""

    least: int
    #: 5% of the values are at most this.
    low: int
    median: int
    #: 5% of the values are at least this.
    high: int
    greatest: int


@dataclass
class PictureSummary:
    """A summary of a source's pictures, all of which were opened."""

    #: Of the upright pictures, in pixels.
    width: Quantiles
    height: Quantiles
    #: Of a picture's file, or of its member in a shard.
    num_bytes: Quantiles
    #: Format (JPEG, PNG, ...) -> the number of pictures.
    formats: dict[str, int]
    #: Groups of ids whose pictures have the same bytes.
    duplicates: list[list[str]]
    #: The number of these groups that have images of several splits.
    num_across_splits: int


@dataclass
class DataSummary:
    """The summary of a source."""

    num_images: int
    num_captions: int
    #: Split -> the number of images.
    splits: dict[str, int]
    captions_per_image: Quantiles
    #: Lengths of captions in characters, in words, and in tokens if a tokenizer is given.
    lengths: dict[str, Quantiles]
    #: Caption that occurs more than once -> its number, the most frequent first.
    repeated_captions: dict[str, int]
    #: Id -> the reason why an image is left out.
    skipped: dict[str, str] = field(default_factory=dict)
    #: None if the pictures were not opened.
    pictures: PictureSummary | None = None


def summarize(
    source: LazySequence, count_tokens: Callable[[str], int] | None = None, open_images: bool = True
) -> DataSummary:
    """Returns the summary of a source.

    Args:
        source: The records.
        count_tokens: Returns the number of tokens of a caption; None: tokens are not counted.
        open_images: Whether all pictures are opened. Pictures that cannot be opened are left out.

    Raises:
        UserError: If none of the pictures can be opened.
    """
    counts: Counter[str] = Counter()
    per_image: list[int] = []
    splits: Counter[str] = Counter()
    for record in source:
        counts.update(record.captions)
        per_image.append(len(record.captions))
        splits[record.split or NO_SPLIT] += 1
    measures: dict[str, Callable[[str], int]] = {"characters": len, "words": lambda caption: len(caption.split())}
    if count_tokens is not None:
        measures["tokens"] = count_tokens
    if not counts:  # questions of a test set have no answers
        measures = {}
    lengths = {name: _weighted_quantiles(counts, measure) for name, measure in measures.items()}
    repeated = {caption: number for caption, number in counts.most_common() if number > 1}
    summary = DataSummary(
        num_images=len(source),
        num_captions=sum(per_image),
        splits=dict(splits),
        captions_per_image=quantiles(per_image),
        lengths=lengths,
        repeated_captions=repeated,
        skipped=dict(source.skipped),
    )
    if open_images:
        summary.pictures = _summarize_pictures(source, summary.skipped)
    return summary


def quantiles(values: Sequence[int]) -> Quantiles:
    """Returns the quantiles of values, of which there is at least one."""
    found = np.quantile(values, (0, 0.05, 0.5, 0.95, 1), method="nearest").tolist()
    return Quantiles(*found)


def _weighted_quantiles(counts: Mapping[str, int], measure: Callable[[str], int]) -> Quantiles:
    """Returns the quantiles of a measure of captions. Each different caption is measured once."""
    values: list[int] = []
    for caption, number in counts.items():
        values += [measure(caption)] * number
    return quantiles(values)


def _summarize_pictures(source: LazySequence, skipped: dict[str, str]) -> PictureSummary:
    """Returns the summary of all pictures, and adds the pictures that cannot be opened to ``skipped``.

    Raises:
        UserError: If none of the pictures can be opened.
    """
    sizes: list[tuple[int, int, int]] = []
    formats: Counter[str] = Counter()
    holders: dict[bytes, list[int]] = {}
    for index, record in enumerate(tqdm(source, "opening", unit=" images")):
        try:
            measures = [_measure_picture(image) for image in record.images]
        except UserError as error:
            skipped[record.id] = f"the picture cannot be opened: {error}"
            continue
        for size, format, checksum in measures:
            sizes.append(size)
            formats[format] += 1
            holders.setdefault(checksum, []).append(index)
    if not sizes:
        raise UserError(f"none of {len(source)} pictures can be opened: {next(iter(skipped.values()))}")
    duplicates = []
    num_across_splits = 0
    for indices in holders.values():
        if len(indices) > 1:
            records = [source[index] for index in indices]
            duplicates.append([record.id for record in records])
            num_across_splits += len({record.split for record in records}) > 1
    widths, heights, num_bytes = zip(*sizes, strict=True)
    return PictureSummary(
        width=quantiles(widths),
        height=quantiles(heights),
        num_bytes=quantiles(num_bytes),
        formats=dict(formats.most_common()),
        duplicates=duplicates,
        num_across_splits=num_across_splits,
    )


def _measure_picture(image: Image) -> tuple[tuple[int, int, int], str, bytes]:
    """Returns (width, height, bytes) of the first frame, its format, and a checksum of its bytes."""
    frame = image.frames[0]
    picture = open_image(frame)
    assert not isinstance(frame, PILImage.Image), "the pictures of sources lie in files"
    content = frame_bytes(frame)  # type: ignore[arg-type]  # sources have no crops
    with PILImage.open(io.BytesIO(content)) as header:
        format = header.format or "unknown"
    return (picture.width, picture.height, len(content)), format, hashlib.sha256(content).digest()
