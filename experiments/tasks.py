"""Config of a task -> the task; and which of its images are similar."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from experiments.data import captioned_images
from experiments.features import add_features
from flamingo import synthetic
from flamingo.data.record import CaptionedImage
from flamingo.evaluation.metrics.corpus import check_metrics
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.scores import computable
from flamingo.evaluation.tasks import TASKS, CaptioningConfig, TaskConfig
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.inference.features import FeatureStore, near_duplicates, nearest
from flamingo.utils.io import write_text
from flamingo.utils.kinds import Kinds, class_of
from flamingo.utils.run_folder import read_config

log = logging.getLogger(__name__)

#: The library's tasks and the synthetic benchmark's.
ALL_TASKS: Kinds = {**TASKS, **synthetic.TASKS}


def make_task(config: TaskConfig, opens: bool) -> Task:
    """Return the task of a config.

    Args:
        config: The config of any kind of task.
        opens: Whether photographs beside a file of captions are opened, so that broken ones are found now.

    Raises:
        UserError: For images that cannot be read.
    """
    if not isinstance(config, CaptioningConfig):
        return class_of(ALL_TASKS, config.kind).from_config(config)
    check_metrics(config.metrics)  # before minutes of reading
    asked = captioned_images(config.query, config.images, config.format, config.query_split, opens)
    pool = captioned_images(config.support, config.images, config.format, config.support_split, opens)
    return Captioning(
        config.name,
        asked.images,
        pool.images,
        asked.skipped | pool.skipped,
        max_new_tokens=config.max_new_tokens,
        corpus_metrics=computable(config.metrics),
    )


def look_at_images(task: Captioning, features: FeatureStore | None, most: int, run: Path | None, report: Path) -> None:
    """Tell the task which images are its queries' duplicates, and the ``most`` that are most similar to each.

    ``report`` then has what was left out of shards and, known by their features, the near-duplicates of queries
    among themselves, in the support, and in what the ``run`` was trained on.
    """
    found = None if features is None else _compare(task, features, most, run)
    for where, pairs in (found or {}).items():
        log.info("near-duplicates of queries among %s: %d%s", where, len(pairs), f", e.g. {pairs[0]}" if pairs else "")
    text = json.dumps({"near_duplicates": found, "skipped": task.skipped}, indent=1, ensure_ascii=False)
    if PartialState().is_main_process:
        write_text(report, text + "\n")


def _compare(task: Captioning, features: FeatureStore, most: int, run: Path | None) -> dict[str, list[dict[str, Any]]]:
    known = _trained_on(run)
    asked, pool, trained = ([own.image for own in images] for images in (task.asked, task.pool, known))
    add_features(features, [*asked, *pool, *trained])
    queries, candidates = features.pooled(asked), features.pooled(pool)
    alike = near_duplicates(queries, candidates)
    duplicates: dict[str, set[int]] = {}
    for query, place, _ in alike:
        duplicates.setdefault(task.asked[query].id, set()).add(place)
    task.duplicates = {id: frozenset(places) for id, places in duplicates.items()}
    if most > 0:
        # As many more as are never shown: the query itself, and its duplicates.
        never_shown = max(len(task.left_out(query)) for query in task.queries())
        task.neighbours = nearest(queries, candidates, min(most + never_shown, len(pool))).numpy()
    # Where queries are asked with the others of their own folder as support, each is there itself.
    others = [pair for pair in alike if task.asked[pair[0]].id != task.pool[pair[1]].id]
    among = [pair for pair in near_duplicates(queries, queries) if pair[0] < pair[1]]
    found = {"support": _named(others, task.asked, task.pool), "queries": _named(among, task.asked, task.asked)}
    if trained:
        pairs = near_duplicates(queries, features.pooled(trained))
        found["training"] = _named(pairs, task.asked, known)
    return found


def _named(
    pairs: list[tuple[int, int, float]], asked: Sequence[CaptionedImage], others: Sequence[CaptionedImage]
) -> list[dict[str, Any]]:
    return [
        {"query": asked[one].id, "image": others[other].id, "similarity": round(similarity, 4)}
        for one, other, similarity in pairs
    ]


def _trained_on(run: Path | None) -> Sequence[CaptionedImage]:
    """The captioned images that a run's config says it was trained on, if any."""
    if run is None or not (run / "config.yaml").exists():
        return []
    data = read_config(run / "config.yaml")["data"]
    if data.get("root") is None:
        return []
    return captioned_images(data["root"], data["images"], data["format"], data["split"], opens=False).images
