"""Logs the summary of a data set and of its documents, and writes them as JSON and as a page."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.cli.command import Job
from experiments.inspect_data import InspectDataConfig
from experiments.runs.inspected_documents import InspectedDocuments, inspect_documents
from experiments.schema import JSON
from flamingo.data.data_summary import DataSummary, PictureSummary, Quantiles, summarize
from flamingo.data.records.record import by_reason
from flamingo.data.source_keys import DATA_KEYS
from flamingo.data.sources import list_split
from flamingo.data.text_checks import sample_captions, tokenizer_problems
from flamingo.report.documents_page import ShownDocuments, write_documents_page
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import write_text

log = logging.getLogger(__name__)

#: Examples of duplicates and of repeated captions in the log. The file has all of them.
_NUM_EXAMPLES = 3
#: The largest number of characters of a caption in the log.
_WIDTH = 60


@dataclass
class Inspection:
    """The report of a data set."""

    #: None without a source of captioned images or questions.
    summary: DataSummary | None = None
    #: The documents of each entry of ``data.documents``.
    documents: dict[str, InspectedDocuments] = field(default_factory=dict)

    def as_json(self) -> JSON:
        """Returns the whole report: the fields of the summary, and ``documents``."""
        values: JSON = {} if self.summary is None else asdict(self.summary)
        for name, documents in self.documents.items():
            counts = dict(vars(documents))
            del counts["shown"]
            values.setdefault("documents", {})[name] = counts
        return values


def run_inspection(config: InspectDataConfig) -> Inspection:
    """Returns the report of a data set, logs it, and writes its files.

    Raises:
        UserError: For data or a tokenizer that cannot be read.
    """
    inspection = Inspection()
    if config.data.root is not None:
        inspection.summary = _summarize_source(config)
    if config.data.documents:
        inspection.documents = inspect_documents(config)
        for name, documents in inspection.documents.items():
            log.info("%-19s%s", name, ", ".join(_facts(documents)))
            for reason, number in documents.drops.most_common():
                log.info("%-19s%s: %d", "  left out", reason, number)
    if config.page is not None:
        kinds = []
        for name, documents in inspection.documents.items():
            drops = dict(documents.drops.most_common())
            kinds.append(ShownDocuments(name, _facts(documents), drops, documents.shown))
        write_documents_page(Path(config.page), kinds)
        log.info("written: %s", config.page)
    if config.output is not None:
        write_text(Path(config.output), json.dumps(inspection.as_json(), indent=1, ensure_ascii=False) + "\n")
        log.info("written: %s", config.output)
    return inspection


def _facts(documents: InspectedDocuments) -> list[str]:
    """Returns the counts of documents, and how many of them one process makes in a second."""
    seconds = documents.seconds or math.inf
    return [
        f"{documents.samples:,} samples",
        f"{documents.documents:,} documents",
        f"{documents.images:,} images",
        f"{documents.tokens:,} tokens",
        f"in one process {documents.documents / seconds:.1f} documents/s",
        f"{documents.images / seconds:.1f} images/s",
        f"{documents.tokens / seconds:,.0f} tokens/s",
    ]


def _summarize_source(config: InspectDataConfig) -> DataSummary:
    """Returns the summary of the captioned images or questions, and logs it."""
    data = config.data
    assert data.root is not None
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
