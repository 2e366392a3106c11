"""Where words look: how much of their attention falls inside the object that they name, in the synthetic benchmark.

python -m experiments.attention run=outputs/synthetic

It writes attention.json, and draws it (attention.png) beside an example (attention_words.png), into the run's folder.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import reduce
from hydra.core.config_store import ConfigStore
from jaxtyping import Float
from matplotlib.figure import Figure
from omegaconf import DictConfig

from experiments.configs import check, plain
from experiments.schema import command
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.model.inspection import receptive_fields
from flamingo.report.attention import attention_figure, share_figure
from flamingo.report.style import png
from flamingo.synthetic.attention_study import Maps, Word, attention_shares, make_scenes, word_attention
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.scenes import Scene
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
        words, maps = word_attention(model, processor, scenes, config["batch_size"])
        if objects == 2:
            pictures = processor.pixel_values([Image(draw(scene)) for scene in scenes[:64]])
            fields = receptive_fields(model, pictures[:, 0]).numpy()
            example = _example(scenes[0], [word for word in words if word.scene == 0], maps, fields)
        rows += [asdict(row) for row in attention_shares(words, maps, scenes, fields)]
    write_text(run / "attention.json", json.dumps(rows, indent=1) + "\n")
    write_bytes(run / "attention.png", png(share_figure(rows)))
    write_bytes(run / "attention_words.png", png(example))
    return [run / name for name in ("attention.json", "attention.png", "attention_words.png")]


def _example(
    scene: Scene,
    words: Sequence[Word],
    maps: Maps,
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
