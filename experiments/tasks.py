"""From a config to the task that it asks for: of the synthetic benchmark, or of captioned images."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from omegaconf import MISSING

from experiments.data import captioned_images
from experiments.features import add_features
from flamingo.data.record import CaptionedImage
from flamingo.evaluation.metrics.captions import check_metrics
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.scores import computable
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.inference.features import FeatureStore, near_duplicates, nearest
from flamingo.synthetic.tasks import SyntheticBinding, SyntheticCaptions, SyntheticQuestions
from flamingo.utils.checks import one_of, whole, within
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.run_folder import read_config

log = logging.getLogger(__name__)

_SYNTHETIC: dict[str, Any] = {
    "captions": SyntheticCaptions,
    "binding": SyntheticBinding,
    "questions": SyntheticQuestions,
}


@dataclass
class TaskConfig:
    """Of the synthetic benchmark captions, binding or questions; or images: people's own, with their captions."""

    kind: str = MISSING
    #: Of the synthetic benchmark: queries.
    number: int | None = None
    #: Of binding: names in an episode.
    ways: int | None = None
    #: Of images: what the task is called in the score files,
    name: str | None = None
    #: what is asked, and what may be shown before it: folders, files, or patterns of shards in quotes,
    query: str | None = None
    support: str | None = None
    #: of which one split each,
    query_split: str | None = None
    support_split: str | None = None
    #: the images' folder where the captions' file lies elsewhere, and how the captions are written.
    images: str | None = None
    format: str | None = None
    max_new_tokens: int | None = None
    metrics: list[str] | None = None

    def __post_init__(self) -> None:
        if self.kind != MISSING:  # Hydra makes one of the defaults
            one_of("kind", self.kind, (*_SYNTHETIC, "images"))
        for key, least in (("number", 1), ("ways", 2), ("max_new_tokens", 1)):
            if getattr(self, key) is not None:
                whole(key, getattr(self, key), least)


def make_task(config: dict[str, Any], opens: bool) -> Task:
    """Return the task of a config.

    Args:
        config: The fields of :class:`TaskConfig`.
        opens: Whether photographs beside a file of captions are opened, so that broken ones are found now.

    Raises:
        UserError: Naming the key, for one that is missing or that the kind has no use for; for images that cannot be
            read.
    """
    kind = config["kind"]
    one_of("task.kind", kind, (*_SYNTHETIC, "images"))
    needed = {"captions": ["number"], "questions": ["number"], "binding": ["number", "ways"]}.get(
        kind, ["name", "query", "support", "max_new_tokens", "metrics"]
    )
    optional = ["query_split", "support_split", "images", "format"] if kind == "images" else []
    for key, value in config.items():
        if key in needed and value is None:
            raise UserError(f"task.{key}: {kind} needs a value; say {key}=... on the command line")
        if key not in ("kind", *needed, *optional) and value is not None:
            raise UserError(f"task.{key}: {kind} has no use for it")
    if kind != "images":
        with within("task"):
            return _SYNTHETIC[kind](**{key: config[key] for key in needed})
    check_metrics(config["metrics"])  # before minutes of reading
    asked, pool = (
        captioned_images(config[which], config["images"], config["format"], config[f"{which}_split"], opens)
        for which in ("query", "support")
    )
    skipped = asked.skipped | pool.skipped
    return Captioning(
        config["name"],
        asked.images,
        pool.images,
        skipped,
        max_new_tokens=config["max_new_tokens"],
        corpus_metrics=computable(config["metrics"]),
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
