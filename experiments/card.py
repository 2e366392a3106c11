"""The card of a pretrained backbone: what it is, how it was made, and what it knows."""

import json
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = """---
license: apache-2.0
---

# {title}

{parameters:.2f} million parameters. Made by `python -m experiments.{command}` in {minutes:.0f} minutes of training on
{device}; the last loss was {loss:.3f} nats per {unit}.

## What it knows

{scores}

## Recipe

```yaml
{recipe}```
"""


def write_card(
    folder: Path, run: Path, config: dict[str, Any], *, title: str, command: str, unit: str, model: Any, scores: str
) -> None:
    """README.md in ``folder``, from the config and the history of the training in ``run``."""
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    recipe = {key: value for key, value in config.items() if key not in ("output", "overwrite", "workers")}
    card = TEMPLATE.format(
        title=title,
        parameters=model.num_parameters() / 1e6,
        command=command,
        minutes=last["seconds"] / 60,
        device="a GPU" if model.device.type == "cuda" else "CPU",
        loss=last["loss"],
        unit=unit,
        scores=scores or "It was not probed.",
        recipe=yaml.safe_dump(recipe, sort_keys=False),
    )
    (folder / "README.md").write_text(card)


def table(title: str, scores: dict[str, float]) -> str:
    """Scores as a table of Markdown."""
    rows = [f"| {name} | {value:.3f} |" for name, value in scores.items()]
    return "\n".join([f"| {title} | |", "|---|---:|", *rows])
