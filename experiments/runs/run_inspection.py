"""Logs the summary of a data set, and writes it as JSON."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.cli.command import Job
from experiments.inspect_data import InspectDataConfig
from flamingo.data.data_summary import DataSummary, PictureSummary, Quantiles, summarize
from flamingo.data.record import by_reason
from flamingo.data.source_keys import DATA_KEYS
from flamingo.data.sources import list_split
from flamingo.data.text_checks import sample_captions, tokenizer_problems
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import write_text

log = logging.getLogger(__name__)

#: Examples of duplicates and of repeated captions in the log. The file has all of them.
_NUM_EXAMPLES = 3
#: The largest number of characters of a caption in the log.
_WIDTH = 60


def run_inspection(config: InspectDataConfig) -> DataSummary:
    """Returns the summary of a data set, and logs it.

    Raises:
        UserError: For a source or a tokenizer that cannot be read.
    """
    data = config.data
    # What a training would leave out is counted; what it would stop at, too.
    source = list_split(
        data.root, replace(data, broken_images="skip"), data.split, DATA_KEYS, None, needs_captions=False
    )
    tokenizer: Any = None
    count_tokens: Callable[[str], int] | None = None
    if config.tokenizer is not None:
        from transformers import AutoTokenizer  # the import takes seconds

        tokenizer = from_pretrained(AutoTokenizer, config.tokenizer, "tokenizer")

        def count_tokens(caption: str) -> int:
            return len(tokenizer(caption, add_special_tokens=False)["input_ids"])

    summary = summarize(source, count_tokens, config.open_images)
    for line in summary_lines(summary):
        log.info("%s", line)
    if tokenizer is not None:
        for problem in tokenizer_problems(sample_captions(source), tokenizer):
            log.warning("%s", problem)
    if config.output is not None:
        write_text(Path(config.output), json.dumps(asdict(summary), indent=1, ensure_ascii=False) + "\n")
        log.info("written: %s", config.output)
    return summary


def summary_lines(summary: DataSummary) -> list[str]:
    """Returns the summary as lines of text."""
    splits = ", ".join(f"{name} {number}" for name, number in sorted(summary.splits.items()))
    lines = [
        f"images             {summary.num_images} ({splits})",
        f"captions           {summary.num_captions}",
        f"left out           {len(summary.skipped)}{_reasons(summary.skipped)}",
        f"repeated captions  {len(summary.repeated_captions)}{_repeated(summary.repeated_captions)}",
    ]
    if summary.pictures is not None:
        lines += _picture_lines(summary.pictures)
    lines += ["", f"{'':24}{'least':>10}{'5%':>10}{'median':>10}{'95%':>10}{'greatest':>10}"]
    lines.append(_row("captions of an image", summary.captions_per_image))
    for unit, values in summary.lengths.items():
        lines.append(_row(f"{unit} of a caption", values))
    if summary.pictures is not None:
        lines.append(_row("width (pixels)", summary.pictures.width))
        lines.append(_row("height (pixels)", summary.pictures.height))
        lines.append(_row("bytes of a picture", summary.pictures.num_bytes))
    return lines


def _picture_lines(pictures: PictureSummary) -> list[str]:
    formats = ", ".join(f"{name} {number}" for name, number in pictures.formats.items())
    line = f"equal pictures     {len(pictures.duplicates)} groups, {pictures.num_across_splits} across splits"
    examples = [", ".join(ids[:_NUM_EXAMPLES]) for ids in pictures.duplicates[:_NUM_EXAMPLES]]
    if examples:
        line += f": {'; '.join(examples)}"
    return [f"formats            {formats}", line]


def _reasons(skipped: dict[str, str]) -> str:
    return f": {by_reason(skipped)}" if skipped else ""


def _repeated(captions: dict[str, int]) -> str:
    examples = [f"{number} x {caption[:_WIDTH]!r}" for caption, number in list(captions.items())[:_NUM_EXAMPLES]]
    return f": {', '.join(examples)}" if examples else ""


def _row(name: str, values: Quantiles) -> str:
    columns = (values.least, values.low, values.median, values.high, values.greatest)
    return f"{name:24}" + "".join(f"{value:>10}" for value in columns)


def run_job(job: Job[InspectDataConfig]) -> None:
    """Runs the command."""
    run_inspection(job.load())
