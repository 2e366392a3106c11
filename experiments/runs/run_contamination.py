"""Searches the tasks for copies in the training data, and writes the report and its page."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.cli.command import Job
from experiments.contamination import ContaminationConfig
from experiments.runs.contamination_report import counts_of, report_of, task_duplicates
from experiments.runs.thumbnails import thumbnail
from experiments.setup.task_search import SearchedTask, searched_task
from experiments.setup.training_samples import training_samples
from flamingo.data.document import Image, Readable
from flamingo.data.drops import Drops
from flamingo.evaluation.contamination.findings import Finding
from flamingo.evaluation.contamination.fingerprint import fingerprint_of
from flamingo.evaluation.contamination.training_sample import TrainingSample, training_sample
from flamingo.report.duplicates_page import write_duplicates_page
from flamingo.utils.errors import UserError
from flamingo.utils.io import check_writable, write_text

log = logging.getLogger(__name__)

#: The longer side of a picture on the page, in pixels.
THUMBNAIL = 240


@dataclass
class Searched:
    """The training data that were searched."""

    samples: int = 0
    images: int = 0
    texts: int = 0
    #: Reason -> samples and pictures that could not be read.
    drops: Drops = field(default_factory=Drops)


def run_contamination(config: ContaminationConfig) -> dict[str, Any]:
    """Returns the report, and writes it with its page.

    Raises:
        UserError: For data that cannot be read, and an output that cannot be written.
    """
    output = Path(config.output)
    check_writable("output", output / "contamination.json")
    tasks = [searched_task(name, source, config) for name, source in config.tasks.items()]
    searched = Searched()
    for sample in training_samples(config.data, searched.drops):
        searched.samples += 1
        _search_sample(training_sample(sample), tasks, searched, config.pictures)
    report = {
        "training": {
            "samples": searched.samples,
            "images": searched.images,
            "texts": searched.texts,
            "left_out": dict(searched.drops.most_common()),
        },
        "max_distance": config.max_distance,
        "min_words": config.min_words,
        "min_overlap": config.min_overlap,
        "tasks": {task.name: report_of(task.search) for task in tasks},
    }
    table = [{"task": task.name} | counts_of(task.search) for task in tasks]
    for line in _table_lines(table):
        log.info("%s", line)
    if searched.drops:
        log.info("left out: %s", ", ".join(f"{reason} ({count})" for reason, count in searched.drops.most_common()))
    write_text(output / "contamination.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    facts = [f"{searched.samples:,} training samples", f"{searched.images:,} images", f"{searched.texts:,} texts"]
    found = [task_duplicates(task.name, task.search, config.pictures, THUMBNAIL) for task in tasks]
    write_duplicates_page(output / "contamination.html", facts, table, found)
    log.info("written: %s and contamination.html", output / "contamination.json")
    return report


def _search_sample(sample: TrainingSample, tasks: Sequence[SearchedTask], searched: Searched, pictures: int) -> None:
    for frame in sample.frames:
        assert isinstance(frame, str | Readable), "the pictures of sources lie in files"
        try:
            fingerprint = fingerprint_of(frame)
        except UserError:
            searched.drops["image: the picture cannot be opened"] += 1
            continue
        searched.images += 1
        new: list[Finding] = []
        for task in tasks:
            new_of_task = task.search.search_picture(fingerprint, sample.id, str(frame))
            shown = pictures - len(task.search.image_findings) + len(new_of_task)
            new += new_of_task[: max(0, shown)]
        if new:
            small = thumbnail(Image(frame), THUMBNAIL)
            for finding in new:
                finding.thumbnail = small
    for text in sample.texts:
        searched.texts += 1
        _search_text(text, sample.id, tasks)


def _search_text(text: str, sample: str, tasks: Sequence[SearchedTask]) -> None:
    words_of: dict[str, list[str]] = {}
    for task in tasks:
        if not task.search.texts:
            continue
        if task.language not in words_of:
            words_of[task.language] = task.tokenize(text).split()
        task.search.search_text(words_of[task.language], sample, text)


def _table_lines(table: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the table as lines of text."""
    width = max(len("task"), *(len(line["task"]) for line in table))
    columns = [name for name in table[0] if name != "task"]
    lines = [f"{'task':{width}}" + "".join(f"{name:>{len(name) + 3}}" for name in columns)]
    for line in table:
        values = "".join(f"{line[name]:>{len(name) + 3},}" for name in columns)
        lines.append(f"{line['task']:{width}}{values}")
    return lines


def run_job(job: Job[ContaminationConfig]) -> None:
    """Runs the command."""
    run_contamination(job.load())
