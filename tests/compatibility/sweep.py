"""Tries every model type of a list, each in a process of its own, and writes the outcomes as a table.

``docs/compatibility_KIND.json`` holds the outcomes of the last sweep; a sweep that was stopped continues from there.
"""

import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

from flamingo.utils.io import write_text

DOCS = Path(__file__).parents[2] / "docs"
TABLE = DOCS / "compatibility.md"

#: Seconds for one model type.
_TIMEOUT = 300
#: In the table's order. "broken" must not occur: a model that is accepted and does not behave, or ends with a trace.
OUTCOMES = ("works", "refused", "not built", "broken")
_INTRODUCTION = """\
# Compatibility

Find your language model or vision encoder by its `model_type`. The tables list the model types of Transformers
{version}. `mosaic_gpt`, MosaicML's MPT-1B, works too: it is a decoder of this library
([`mosaic_gpt.py`](../flamingo/model/mosaic_gpt.py)).

- **works**: it passes the check of a composition, every gated block gets a gradient, greedy and beam search agree with
  and without the cache, and a loaded checkpoint gives the same logits.
- **refused**: composing raises the error in the last column.
- **not built**: Transformers builds no tiny random model of this type here.

Each model type is built tiny, with random weights, and composed with a tiny partner on a CPU, with torch {torch}.
Published weights are not tried. timm_wrapper, timm_backbone and gemma3n_vision need timm, and were tried with timm
1.0.31.

```
python -m tests.compatibility decoders
python -m tests.compatibility encoders
```

These commands write the tables. Model types after the command try only these.
"""


@dataclass
class Outcome:
    """What happened with one model type."""

    model_type: str
    class_name: str
    outcome: str
    #: Why it was refused or not built: the kind of architecture, in a few words.
    reason: str = ""
    #: The sentence that it was refused with, or the error.
    sentence: str = ""
    transformers: str = transformers.__version__


Trial = Callable[[str], Outcome]


def sweep(kind: str, classes: dict[str, str], trial: Trial, chosen: Sequence[str]) -> int:
    """Try all model types that have no outcome yet, or those that are chosen; returns the number of broken ones."""
    outcomes = {row["model_type"]: Outcome(**row) for row in _saved(kind)}
    outcomes = {name: row for name, row in outcomes.items() if row.transformers == transformers.__version__}
    for name in chosen or [name for name in classes if name not in outcomes]:
        start = time.monotonic()
        outcomes[name] = _isolated(name, classes[name], trial)
        row = outcomes[name]
        print(f"{time.monotonic() - start:5.1f} s  {name}: {row.outcome}  {row.reason}  {row.sentence}", flush=True)
        rows = [asdict(outcomes[known]) for known in classes if known in outcomes]
        write_text(_file(kind), json.dumps(rows, indent=1) + "\n")
        write_table()
    counts = Counter(row.outcome for row in outcomes.values())
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES))
    return counts["broken"]


def _isolated(name: str, class_name: str, trial: Trial) -> Outcome:
    """The outcome of a trial in a forked process, whatever happens to that process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name, class_name, trial))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv() if receiver.poll(_TIMEOUT) else None
    except EOFError:
        outcome = Outcome(name, class_name, "broken", sentence="the process ended without an outcome")
    if outcome is None:
        process.kill()
        outcome = Outcome(name, class_name, "broken", sentence=f"no outcome after {_TIMEOUT} seconds")
    process.join()
    return outcome


def _send(sender: Connection, name: str, class_name: str, trial: Trial) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        outcome = trial(name)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        outcome = Outcome(name, class_name, "broken", sentence=f"{type(error).__name__}: {_one_line(error)}")
    sender.send(outcome)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def not_built(name: str, class_name: str, error: Exception) -> Outcome:
    """The outcome for a model that transformers does not build from its tiny config."""
    return Outcome(name, class_name, "not built", sentence=f"{type(error).__name__}: {_one_line(error)}")


# ------------------------------------------------------------------------------------------ the table


def _file(kind: str) -> Path:
    return DOCS / f"compatibility_{kind}.json"


def _saved(kind: str) -> list[dict[str, Any]]:
    return json.loads(_file(kind).read_text()) if _file(kind).exists() else []


def write_table() -> None:
    """Write ``docs/compatibility.md`` from the outcomes of both sweeps."""
    pages = [_INTRODUCTION.format(version=transformers.__version__, torch=torch.__version__.split("+")[0])]
    for kind, title in (("decoders", "Language models"), ("encoders", "Vision encoders")):
        rows = [Outcome(**row) for row in _saved(kind)]
        if rows:
            pages.append(_section(title, rows))
    write_text(TABLE, "\n".join(pages))


def _section(title: str, rows: Sequence[Outcome]) -> str:
    counts = Counter(row.outcome for row in rows)
    lines = [f"## {title}", "", ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])]
    lines += ["", "| model type | class | outcome | reason | error |", "|---|---|---|---|---|"]
    ordered = sorted(rows, key=lambda row: (OUTCOMES.index(row.outcome), row.reason, row.model_type))
    for row in ordered:
        cells = (row.model_type, row.class_name, row.outcome, row.reason, row.sentence)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])
