"""Runs zero-shot classification by a dual encoder: the probabilities of each image, and the accuracies."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.command import Job
from experiments.schema import JSON, as_recorded
from experiments.zero_shot import ZeroShotConfig, templates_of
from flamingo.data.class_labels import labelled, read_class_names
from flamingo.data.data_checksums import data_checksums
from flamingo.data.records.record import Record
from flamingo.data.source_keys import SourceKeys
from flamingo.data.sources import read_split
from flamingo.evaluation.metrics.resampling import bootstrap, mean
from flamingo.evaluation.statistics import FEWEST_QUERIES
from flamingo.inference.class_vectors import class_probabilities, class_vectors
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.report.score_text import interval_text, score_text
from flamingo.utils.devices import processes, use_device
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.memory import keep_memory, out_of_memory
from flamingo.utils.progress import progress_bar
from flamingo.utils.run_folder import RunFiles, model_contents, run_folder
from flamingo.utils.sharing import batched, in_rounds, on_main_process

log = logging.getLogger(__name__)

_RESULTS = ("zero_shot.json", "class_probabilities.jsonl")
_FILES = RunFiles(results=_RESULTS, saved=_RESULTS, may_change=("batch_size",), config_file="zero_shot.yaml")

#: The number of classes of each image that are written, the most probable first.
_TOP = 5


def run_zero_shot(config: ZeroShotConfig) -> Path:
    """Classifies images by a dual encoder.

    Returns:
        The path of ``zero_shot.json``.

    Raises:
        UserError: For everything that a user can fix.
    """
    templates = templates_of(config)
    use_device(config.device)
    output = Path(config.output)
    file = output / "zero_shot.json"
    with run_folder(output, as_recorded(config), _FILES) as run:
        records, classes = _read(config)
        run.begin({"query": data_checksums(records), "encoder": model_contents(config.encoder)})
        with out_of_memory("batch_size"):
            predictions = _predictions(config, records, classes, templates)
        rows = _score_rows(predictions, len(classes), len(templates))

        def save() -> None:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in predictions]
            write_text(output / "class_probabilities.jsonl", "".join(lines))
            write_text(file, json.dumps(rows, indent=1) + "\n")

        on_main_process(save)
        run.keep()
    if processes().is_main_process:
        log.info("%s\n%s", file, _table(rows))
    return file


def _read(config: ZeroShotConfig) -> tuple[list[Record], list[str]]:
    """Returns the images with the names of their classes as captions, and the names of all classes.

    Raises:
        UserError: For data that cannot be read, and an image of no class.
    """
    key = "class_names"
    names = None if config.class_names is None else read_class_names(Path(config.class_names), key)
    source = read_split(config.query, config, config.split, keys=SourceKeys("query", "split"))
    records = [labelled(record, names, key) for record in source.records[: config.limit]]
    if config.classes is None:
        found = {record.captions[0] for record in records} | set((names or {}).values())
        return records, sorted(found)
    for record in records:
        if record.captions[0] not in config.classes:
            raise UserError(f"{record.id}: classes has no {record.captions[0]!r}")
    return records, config.classes


def _predictions(
    config: ZeroShotConfig, records: Sequence[Record], classes: Sequence[str], templates: Sequence[str]
) -> list[JSON]:
    """Returns the label of each image, and its most probable classes."""
    encoder = DualEncoder(config.encoder, config.batch_size)
    vectors = class_vectors(encoder, classes, templates)

    def classify(batch: Sequence[Record]) -> list[JSON]:
        probabilities = class_probabilities(encoder, [record.image for record in batch], vectors)
        best = probabilities.sort(dim=-1, descending=True, stable=True)
        rows: list[JSON] = []
        for record, values, numbers in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            top = []
            for value, number in zip(values[:_TOP], numbers[:_TOP], strict=True):
                top.append({"class": classes[number], "probability": value})
            rows.append({"image": record.id, "label": record.captions[0], "classes": top})
        return rows

    predictions: list[JSON] = []
    with progress_bar(len(records), " images", visible=processes().is_main_process) as bar:
        for of_round in in_rounds(classify, batched(records, config.batch_size)):
            for batch, rows in of_round:
                predictions += rows
                bar.update(len(batch))
    return predictions


def _score_rows(predictions: Sequence[JSON], num_classes: int, num_templates: int) -> list[JSON]:
    """Returns top-1 accuracy, and top-5 accuracy of more than 5 classes, with 95% intervals over images.

    There are no intervals for fewer than 30 images.
    """
    rows = []
    for k in (1, _TOP):
        if k > 1 and num_classes <= k:
            continue
        hits = []
        for row in predictions:
            names = [one["class"] for one in row["classes"][:k]]
            hits.append(float(row["label"] in names))
        accuracy = mean(hits)
        interval = bootstrap(accuracy) if len(hits) >= FEWEST_QUERIES else None
        score: JSON = {"metric": f"top{k}_accuracy", "value": accuracy.value, "ci95": interval, "n": accuracy.n}
        score["classes"] = num_classes
        score["templates"] = num_templates
        rows.append(score)
    return rows


def _table(rows: Sequence[JSON]) -> str:
    lines = []
    for row in rows:
        name = f"{row['metric']}, {row['classes']} classes, {row['templates']} templates"
        lines.append(f"{name:44} {score_text(row['value'])}  {interval_text(row['ci95'])}")
    return "\n".join(lines)


def run_job(job: Job[ZeroShotConfig]) -> None:
    """Runs the command."""
    keep_memory()
    run_zero_shot(job.load())
