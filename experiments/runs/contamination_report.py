"""The findings of a task -> its part of the report, and of the page."""

from collections import Counter
from itertools import islice
from typing import Any

from experiments.runs.thumbnails import thumbnail
from flamingo.data.document import Image
from flamingo.evaluation.contamination.caption_overlap import EQUAL
from flamingo.evaluation.contamination.findings import Copy, Finding, TaskSearch
from flamingo.evaluation.contamination.image_overlap import NEAR, SAME_FILE, SAME_PIXELS
from flamingo.report.duplicates_page import CaptionPair, PicturePair, TaskDuplicates


def counts_of(search: TaskSearch) -> dict[str, int]:
    """Returns the numbers of pictures and captions, and of those that were found, by their surest kind."""
    images = Counter(finding.kind for finding in search.image_findings.values())
    captions = Counter(finding.kind for finding in search.caption_findings.values())
    return {
        "images": len(search.pictures),
        SAME_FILE: images[SAME_FILE],
        SAME_PIXELS: images[SAME_PIXELS],
        "near images": images[NEAR],
        "captions": len(search.texts),
        "equal captions": captions[EQUAL],
        "near captions": captions[NEAR],
    }


def report_of(search: TaskSearch) -> dict[str, Any]:
    """Returns the part of a task in the report, as JSON has it."""
    return {
        "counts": counts_of(search),
        "flat_images": search.images.num_flat,
        "short_captions": search.num_short,
        "images": [_row(finding, "image", "distance") for finding in search.image_findings.values()],
        "captions": [_row(finding, "caption", "overlap") for finding in search.caption_findings.values()],
    }


def _row(finding: Finding, content: str, measure: str) -> dict[str, Any]:
    copies = []
    for copy in finding.copies:
        value = round(copy.measure, 3)
        copies.append({"kind": copy.kind, measure: value, "sample": copy.sample, content: copy.content})
    row = {"query": finding.query, content: finding.content, "kind": finding.kind}
    return row | {"num_copies": finding.counts.total(), "copies": copies}


def task_duplicates(name: str, search: TaskSearch, limit: int, side: int) -> TaskDuplicates:
    """Returns what the page shows of a task.

    Args:
        name: The name of the task.
        search: Its findings.
        limit: The most pictures, and the most captions.
        side: The longer side of a picture, in pixels.
    """
    pictures = []
    for finding in islice(search.image_findings.values(), limit):
        copy = finding.copies[0]
        assert finding.frame is not None
        query_picture = thumbnail(Image(finding.frame), side)
        note = _note(finding, copy, f"{copy.measure:.0f} of 256 bits differ")
        pictures.append(PicturePair(finding.query, query_picture, copy.content, finding.thumbnail, note))
    captions = []
    for finding in islice(search.caption_findings.values(), limit):
        copy = finding.copies[0]
        note = _note(finding, copy, f"overlap {copy.measure:.2f}")
        captions.append(CaptionPair(finding.query, finding.content, copy.sample, copy.content, note))
    return TaskDuplicates(name, pictures, len(search.image_findings), captions, len(search.caption_findings))


def _note(finding: Finding, copy: Copy, measure: str) -> str:
    note = f"{copy.kind}, {measure}" if copy.kind == NEAR else copy.kind
    number = finding.counts.total()
    return note if number == 1 else f"{note}; {number:,} copies"
