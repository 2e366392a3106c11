"""Measures and plots the attention of words in scenes of the synthetic benchmark."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from einops import reduce
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.cli.command import Job
from experiments.setup.build import load_model
from experiments.word_attention import WordAttentionConfig, check_config
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.model.inspection import receptive_fields
from flamingo.report.attention_plots import attention_figure, share_figure
from flamingo.report.style import png
from flamingo.synthetic.attention_study import Maps, Word, attention_shares, make_scenes, word_attention
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.scenes import Scene
from flamingo.utils.devices import use_device
from flamingo.utils.io import write_bytes, write_text
from flamingo.utils.memory import out_of_memory

log = logging.getLogger(__name__)

#: The number of scenes that measure the receptive fields.
_FIELD_SCENES = 64


def run_word_attention(config: WordAttentionConfig) -> list[Path]:
    """Returns the paths of the files that are written.

    Raises:
        UserError: For a folder without a checkpoint.
    """
    check_config(config)
    assert config.run is not None
    run = Path(config.run)
    use_device(config.device)
    model, processor = load_model(run / "checkpoint", config.dtype)
    with out_of_memory("batch_size"):
        return _measure(config, model, processor, run)


def _measure(
    config: WordAttentionConfig, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, run: Path
) -> list[Path]:
    pairs = make_scenes(config.scenes, 2, config.seed)
    images = processor.pixel_values([Image(draw(scene)) for scene in pairs[:_FIELD_SCENES]])
    encoder = model.vision_model
    fields = receptive_fields(model, images[:, 0].to(encoder.device, encoder.dtype)).float().cpu().numpy()
    words, maps = word_attention(model, processor, pairs, config.batch_size)
    shares = attention_shares(words, maps, pairs, fields)
    example = _draw_example(pairs[0], [word for word in words if word.scene == 0], maps, fields)

    singles = make_scenes(config.scenes, 1, config.seed)
    words, maps = word_attention(model, processor, singles, config.batch_size)
    shares += attention_shares(words, maps, singles, fields)

    rows = [asdict(share) for share in shares]
    table, plot, example_plot = run / "attention.json", run / "attention.png", run / "attention_words.png"
    write_text(table, json.dumps(rows, indent=1) + "\n")
    write_bytes(plot, png(share_figure(rows)))
    write_bytes(example_plot, png(example))
    return [table, plot, example_plot]


def _draw_example(scene: Scene, words: Sequence[Word], maps: Maps, fields: Float[np.ndarray, "p h w"]) -> Figure:
    """Returns a figure of the attention of the first scene's words: a row for each layer, as the mean of its heads."""
    means = np.stack([heads[:, : len(words)].mean(axis=0) for heads in maps.values()])
    fields = reduce(fields, "p (h 4) (w 4) -> p h w", "mean")  # single pixels are noisy
    return attention_figure(
        np.asarray(draw(scene, 256)) / 255,
        np.einsum("lwp,phv->lwhv", means, fields),
        [f"layer {layer}" for layer in maps],
        [word.text for word in words],
    )


def run_job(job: Job[WordAttentionConfig]) -> None:
    """Runs the command."""
    for path in run_word_attention(job.load()):
        log.info("%s", path)
