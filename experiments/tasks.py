"""Config of a task -> the task; and which of its images are similar."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from experiments.build import add_features
from experiments.data import captioned_images
from flamingo.data.record import Record
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import duplicate_report, index_neighbours
from flamingo.utils.io import write_text
from flamingo.utils.run_folder import read_config

log = logging.getLogger(__name__)


def index_images(
    task: Captioning, features: FeatureStore | None, num_neighbours: int, run: Path | None, report: Path
) -> None:
    """Give the task the duplicates of its queries, and the images most similar to each; write a report.

    ``report`` has what was left out of shards and, by their features, the near-duplicates of queries among themselves,
    in the support, and in the images that the ``run`` was trained on.
    """
    near_duplicates = None
    if features is not None:
        near_duplicates = _index(task, features, num_neighbours, _trained_on(run))
        for where, pairs in near_duplicates.items():
            example = f", e.g. {pairs[0]}" if pairs else ""
            log.info("near-duplicates of queries among %s: %d%s", where, len(pairs), example)
    content = {"near_duplicates": near_duplicates, "skipped": task.skipped}
    if PartialState().is_main_process:
        write_text(report, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _index(
    task: Captioning, features: FeatureStore, num_neighbours: int, trained: Sequence[Record]
) -> dict[str, list[dict[str, Any]]]:
    add_features(features, (image.image for images in (task.asked, task.pool, trained) for image in images))
    index = index_neighbours(features, task.asked, task.pool, num_neighbours)
    task.duplicates, task.neighbours = index.duplicates, index.neighbours
    return duplicate_report(features, index, task.asked, task.pool, trained)


def _trained_on(run: Path | None) -> Sequence[Record]:
    """The captioned images that a run's config says it was trained on, if any."""
    if run is None or not (run / "config.yaml").exists():
        return []
    data = read_config(run / "config.yaml")["data"]
    if data.get("root") is None:
        return []
    return captioned_images(data["root"], data["images"], data["format"], data["split"], opens=False).images
