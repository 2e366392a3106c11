"""What pretraining leaves: a backbone with its card, which says what it is, how it was made, and what it knows."""

import json
import logging
from pathlib import Path
from typing import Any

import yaml

from flamingo.report.escaping import code_block, markdown, row
from flamingo.report.results import read_history
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.run_folder import STATES, WRITING, Kind

log = logging.getLogger(__name__)

TEMPLATE = """---
license: apache-2.0
---

# {title}

{parameters:.2f} million parameters. Made by `python -m experiments.{command}` in {minutes:.0f} minutes of training on
{device}; the last loss was {loss:.3f} nats per {unit}.

## What it knows

{scores}

## Recipe

{recipe}
"""


KIND = Kind(
    results=("state", "history.jsonl", "model", "scores.json", "skipped.json"),
    saved=(*STATES, "model"),
    descriptions=("failure.txt",),
    may_change=WRITING,
)


def save_backbone(
    output: Path,
    config: dict[str, Any],
    model: Any,
    processor: Any,
    *,
    title: str,
    command: str,
    unit: str,
    scores: dict[str, float] | None,
    scored_on: str,
) -> None:
    """Leave the trained model, what prepares its input, and its card in ``output / "model"``, complete at once.

    The card is of the config and of the history of the training in ``output``. ``unit`` is what the loss is
    a mean over. ``scores``, if there are any, go to ``scores.json``, too; ``scored_on`` heads their table.
    """
    known = ""
    if scores is not None:
        write_text(output / "scores.json", json.dumps(scores, indent=2))
        known = table(scored_on, scores)
    last = read_history(output / "history.jsonl")[-1]
    recipe = {key: value for key, value in config.items() if key not in ("output", "overwrite", "workers")}
    card = TEMPLATE.format(
        title=markdown(title),
        parameters=model.num_parameters() / 1e6,
        command=command,
        minutes=last["seconds"] / 60,
        device="a GPU" if model.device.type == "cuda" else "CPU",
        loss=last["loss"],
        unit=unit,
        scores=known or "It was not probed.",
        recipe=code_block(yaml.safe_dump(recipe, sort_keys=False), "yaml"),
    )
    with atomic_folder(output / "model") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_text(folder / "README.md", card)
    log.info("%s\n%s", output / "model", known)


def table(title: str, scores: dict[str, float]) -> str:
    """Scores as a table of Markdown."""
    rows = [row([name, f"{value:.3f}"]) for name, value in scores.items()]
    return "\n".join([row([title, ""]), "|---|---:|", *rows])
