"""One self-contained page of HTML with the images and captions of evaluations that training data have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.report.page import template
from flamingo.utils.io import write_text


@dataclass(frozen=True)
class PicturePair:
    """A picture of an evaluation and its copy in the training data, as data URIs. None: no picture."""

    query: str
    query_picture: str | None
    sample: str
    sample_picture: str | None
    #: How the pictures are alike, and how many copies there are.
    note: str


@dataclass(frozen=True)
class CaptionPair:
    """A caption of an evaluation and its copy in the training data."""

    query: str
    caption: str
    sample: str
    text: str
    #: How the captions are alike, and how many copies there are.
    note: str


@dataclass(frozen=True)
class TaskDuplicates:
    """What training data have of a task."""

    name: str
    pictures: Sequence[PicturePair]
    #: The number of pictures that were found, some of which the page may leave out.
    num_pictures: int
    captions: Sequence[CaptionPair]
    num_captions: int


def write_duplicates_page(
    output: Path, facts: Sequence[str], table: Sequence[dict[str, Any]], tasks: Sequence[TaskDuplicates]
) -> None:
    """Writes the page.

    Args:
        output: The file of the page.
        facts: What was searched.
        table: The counts of each task: column -> value, with the same columns.
        tasks: What was found of each task.
    """
    page = template("duplicates.html").render(
        title="Evaluations in training data", facts=facts, table=table, tasks=tasks
    )
    write_text(output, page)
