"""The folder of a pretrained backbone: the model, its tokenizer or image processor, and a model card."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flamingo.history import read_history
from flamingo.report.escaping import code_block, markdown, row
from flamingo.utils.devices import device_title
from flamingo.utils.durations import duration_text
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.run_folder import STATES, WRITING, RunFiles

log = logging.getLogger(__name__)

#: The files of a pretraining run.
BACKBONE_FILES = RunFiles(
    results=("state", "history.jsonl", "model", "dual_encoder", "scores.json", "skipped.json"),
    saved=STATES + ("model", "scores.json"),
    descriptions=("failure.txt",),
    may_change=WRITING,
)
#: Keys of a config that are not part of a recipe.
_NO_RECIPE = ("output", "overwrite", "num_workers", "device")

_TEMPLATE = """---
license: apache-2.0
---

# {title}

{parameters:.2f} million parameters. Made by `python -m experiments.{command}` in {time} of training on
{device}; the last loss was {loss:.3f} nats per {unit}.

## What it knows

{scores}

## Recipe

{recipe}
"""


@dataclass(frozen=True)
class CardTexts:
    """The texts that differ between the cards of two commands."""

    title: str
    command: str
    #: The unit that the loss is a mean over.
    unit: str
    #: The heading of the scores.
    scores: str


def save_backbone(
    output: Path,
    config: Mapping[str, Any],
    model: Any,
    processor: Any,
    texts: CardTexts,
    scores: Mapping[str, float] | None,
) -> None:
    """Saves model, processor and card in ``output / "model"``, complete or not at all.

    Args:
        output: The run's folder, with the history of the training.
        config: The resolved config: the recipe.
        model: A model of transformers.
        processor: The tokenizer or the image processor.
        texts: The texts of the card.
        scores: The scores, which are also written to ``scores.json``; None if the model was not scored.
    """
    scores_table = "It was not probed."
    if scores is not None:
        write_text(output / "scores.json", json.dumps(scores, indent=2))
        scores_table = _table(texts.scores, scores)
    last = read_history(output / "history.jsonl")[-1]
    recipe = {key: value for key, value in config.items() if key not in _NO_RECIPE}
    card = _TEMPLATE.format(
        title=markdown(texts.title),
        parameters=model.num_parameters() / 1e6,
        command=texts.command,
        time=duration_text(float(last["seconds"])),
        device=device_title(model.device),
        loss=last["loss"],
        unit=texts.unit,
        scores=scores_table,
        recipe=code_block(yaml.safe_dump(recipe, sort_keys=False), "yaml"),
    )
    with atomic_folder(output / "model") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_text(folder / "README.md", card)
    log.info("%s\n%s", output / "model", scores_table)


def _table(heading: str, scores: Mapping[str, float]) -> str:
    """Returns the scores as a table of Markdown."""
    lines = [row([heading, ""]), "|---|---:|"]
    for name, value in scores.items():
        lines.append(row([name, f"{value:.3f}"]))
    return "\n".join(lines)
