"""Where words look: how much of their attention falls inside the object that they name, in the synthetic benchmark.

python -m experiments.attention run=outputs/synthetic

It writes attention.json, and draws it (attention.png) beside an example (attention_words.png), into the run's folder.
"""

import json
import logging
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import reduce
from hydra.core.config_store import ConfigStore
from jaxtyping import Float
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from experiments.configs import check, plain
from experiments.schema import command
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import PROMPT, Image
from flamingo.evaluation.metrics.captions import bootstrap, mean
from flamingo.model.inspection import inspect, receptive_fields
from flamingo.report.attention import attention_figure, share_figure
from flamingo.report.style import png
from flamingo.synthetic.documents import Turn, show
from flamingo.synthetic.drawing import draw, masks
from flamingo.synthetic.grammar import caption
from flamingo.synthetic.scenes import Scene, random_scene
from flamingo.utils.checks import seed, whole
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_bytes, write_text

log = logging.getLogger(__name__)


@dataclass
class AttentionConfig:
    """Which run is looked into, and on how many scenes of each kind."""

    run: str | None = None
    #: Scenes with two objects, and as many with one.
    scenes: int = 200
    seed: int = 0
    batch_size: int = 50

    def __post_init__(self) -> None:
        whole("scenes", self.scenes, least=1)
        seed("seed", self.seed)
        whole("batch_size", self.batch_size, least=1)


ConfigStore.instance().store("attention_schema", AttentionConfig)


@dataclass(frozen=True)
class Word:
    """A word of a scene's plain caption, and the token that it is said from: the one before its first."""

    text: str
    attribute: str
    scene: int
    object: int
    token: int


def make_scenes(count: int, objects: int, seed: int) -> list[Scene]:
    """Scenes of the evaluation split with two objects, or with one, which lies anywhere around the middle."""
    rng = random.Random(f"attention/{objects}/{seed}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng, "evaluation", pairs=float(objects == 2))
        scenes += [scene] if scene.count == objects else []
    return scenes


def named_words(scene: Scene, number: int, tokens: Sequence[str]) -> list[Word]:
    """The colour and shape words of the plain caption that ends a document's ``tokens``, in reading order."""
    text = "".join(tokens)
    starts = np.cumsum([0, *map(len, tokens)]).tolist()
    found, place = [], text.rindex(PROMPT)
    for i, kind in enumerate(scene.kinds):
        for attribute in ("colour", "shape"):
            word = getattr(kind, attribute)
            place = text.index(word, place)
            found.append(Word(word, attribute, number, i, bisect_right(starts, place) - 2))
    return found


@torch.no_grad()
def look(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, scenes: Sequence[Scene], batch_size: int
) -> tuple[list[Word], dict[int, Float[np.ndarray, "k w p"]]]:
    """Each layer's attention over the patches, from where the words of the scenes' captions are said; no shots."""
    documents = [show([Turn(scene, PROMPT, caption(scene))]) for scene in scenes]
    words: list[Word] = []
    maps: dict[int, list[Tensor]] = {}
    for start in range(0, len(scenes), batch_size):
        batch = processor.batch(documents[start : start + batch_size])
        inspection = inspect(model, **batch)
        own: list[Word] = []
        for row, ids in enumerate(batch["input_ids"]):
            tokens = [processor.tokenizer.decode([i]) for i in ids[batch["attention_mask"][row].bool()].tolist()]
            own += named_words(scenes[start + row], start + row, tokens)
        rows, places = [word.scene - start for word in own], [word.token for word in own]
        for layer in inspection.cross_attention:
            over_patches = inspection.words_over_patches(layer)[rows, :, places, 0]
            maps.setdefault(layer, []).append(over_patches.transpose(0, 1).cpu())
        words += own
    return words, {layer: torch.cat(parts, dim=1).numpy() for layer, parts in maps.items()}


def covered(scene: Scene, fields: Float[np.ndarray, "p h w"]) -> Float[np.ndarray, "objects p"]:
    """Which share of each patch's receptive field lies inside each object."""
    return np.einsum("ohw,phw->op", masks(scene, fields.shape[-1]), fields)


def shares(
    words: Sequence[Word],
    maps: dict[int, Float[np.ndarray, "k w p"]],
    scenes: Sequence[Scene],
    fields: Float[np.ndarray, "p h w"],
) -> list[dict[str, Any]]:
    """A row for each attribute, layer and head; head null is the mean over heads, layer null that over all layers.

    ``share`` is the attention inside the object that the word names, of all that is on the picture, each patch's
    spread over its receptive field; with a 95% interval over scenes. To compare it with: ``area``, the object's share
    of the picture; ``uniform``, that of all patches alike; ``best``, that of the one patch that has most of the object;
    ``other``, the attention inside the other object; ``elsewhere``, inside this one, but the attention of the same
    word of another picture of the same layout.
    """
    cover = [covered(scene, fields) for scene in scenes]
    own = np.stack([cover[word.scene][word.object] for word in words])
    other = np.stack([cover[word.scene][-1 - word.object] for word in words])
    area = np.stack([masks(scenes[word.scene], fields.shape[-1])[word.object].mean() for word in words])
    another = _another([(scenes[word.scene].axis, word.object, word.attribute) for word in words])
    objects = len(scenes[0].kinds)
    rows = []
    for attribute in ("colour", "shape"):
        chosen = [i for i, word in enumerate(words) if word.attribute == attribute]
        for (layer, head), each in _each_and_means(maps).items():
            share = mean((each * own).sum(axis=-1)[chosen].reshape(len(scenes), objects).mean(axis=1).tolist())
            rows.append(
                {
                    **{"objects": objects, "words": attribute, "layer": layer, "head": head},
                    **{"share": share.value, "ci95": bootstrap(share), "scenes": len(scenes)},
                    **{"area": float(area[chosen].mean()), "uniform": float(own[chosen].mean())},
                    "best": float(own[chosen].max(axis=-1).mean()),
                    "other": float((each * other).sum(axis=-1)[chosen].mean()) if objects == 2 else None,
                    "elsewhere": float((each[another] * own).sum(axis=-1)[chosen].mean()),
                }
            )
    return rows


def _each_and_means(
    maps: dict[int, Float[np.ndarray, "k w p"]],
) -> dict[tuple[int | None, int | None], Float[np.ndarray, "w p"]]:
    """Maps by layer and head, with their means under None, each word's of sum 1."""
    found: dict[tuple[int | None, int | None], np.ndarray] = {}
    for layer, heads in maps.items():
        found |= {(layer, head): each for head, each in enumerate(heads)} | {(layer, None): heads.mean(axis=0)}
    found[None, None] = np.mean([found[layer, None] for layer in maps], axis=0)
    return {key: each / each.sum(axis=-1, keepdims=True) for key, each in found.items()}


def _another(groups: Sequence[tuple]) -> list[int]:
    """For each of the words the next one of its group, after the last the first."""
    following = list(range(len(groups)))
    for group in set(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        for i, j in zip(members, [*members[1:], members[0]], strict=True):
            following[i] = j
    return following


def run_attention(config: dict[str, Any]) -> list[Path]:
    """The paths of what is written. Raises UserError for a folder without a checkpoint."""
    check(AttentionConfig, config)
    if config["run"] is None:
        raise UserError("which model is to be looked into? Say run=FOLDER")
    run = Path(config["run"])
    if not (run / "checkpoint").is_dir():
        raise UserError(f"{run} holds no checkpoint")
    model = FlamingoForConditionalGeneration.from_pretrained(run / "checkpoint").eval()
    processor = FlamingoProcessor.from_pretrained(run / "checkpoint")
    rows = []
    for objects in (2, 1):
        scenes = make_scenes(config["scenes"], objects, config["seed"])
        words, maps = look(model, processor, scenes, config["batch_size"])
        if objects == 2:
            pictures = processor.pixel_values([Image(draw(scene)) for scene in scenes[:64]])
            fields = receptive_fields(model, pictures[:, 0]).numpy()
            example = _example(scenes[0], [word for word in words if word.scene == 0], maps, fields)
        rows += shares(words, maps, scenes, fields)
    write_text(run / "attention.json", json.dumps(rows, indent=1) + "\n")
    write_bytes(run / "attention.png", png(share_figure(rows)))
    write_bytes(run / "attention_words.png", png(example))
    return [run / name for name in ("attention.json", "attention.png", "attention_words.png")]


def _example(
    scene: Scene,
    words: Sequence[Word],
    maps: dict[int, Float[np.ndarray, "k w p"]],
    fields: Float[np.ndarray, "p h w"],
) -> Figure:
    """The first scene's words, which come first in the maps: a row a layer, the mean over its heads."""
    means = np.stack([heads[:, : len(words)].mean(axis=0) for heads in maps.values()])
    fields = reduce(fields, "p (h 4) (w 4) -> p h w", "mean")  # single pixels differ without a meaning
    return attention_figure(
        np.asarray(draw(scene, 256)) / 255,
        np.einsum("lwp,phv->lwhv", means, fields),
        [f"layer {layer}" for layer in maps],
        [word.text for word in words],
    )


@command("attention")
def main(config: DictConfig) -> None:
    for path in run_attention(plain(config)):
        log.info("%s", path)


if __name__ == "__main__":
    main()
