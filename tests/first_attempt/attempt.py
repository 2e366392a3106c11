"""One attempt: a dry run, a training, an evaluation of what it made, in processes of their own -> the outcome."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

#: The last lines of a failed command that are shown.
_SHOWN_LINES = 5
#: Estimates may be off by this share.
_TOLERANCE = 0.3


@dataclass(frozen=True)
class Combination:
    """What a user has, and how long they train."""

    data: Path
    vision: str
    language: str
    steps: int

    def overrides(self) -> list[str]:
        """Returns the four keys, and the number of steps."""
        return [
            "experiment=captions",
            f"data.root={self.data}",
            f"model.vision={self.vision}",
            f"model.language={self.language}",
            f"training.steps={self.steps}",
        ]


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to; ``error`` is the end of the first command that failed."""

    error: str = ""
    first_loss: float = 0.0
    last_loss: float = 0.0
    seconds: float = 0.0
    estimated_seconds: float = 0.0
    memory: float = 0.0
    estimated_memory: float = 0.0
    captions: int = 0

    def problems(self) -> list[str]:
        """Returns what is not as it must be."""
        if self.error:
            return [self.error]
        problems = []
        if not self.last_loss < self.first_loss:
            problems.append(f"the loss goes from {self.first_loss:.3f} to {self.last_loss:.3f}")
        if not self.captions:
            problems.append("there is no caption")
        if not _is_close(self.estimated_seconds, self.seconds):
            problems.append(f"{self.seconds:.0f} s were estimated as {self.estimated_seconds:.0f} s")
        if not _is_close(self.estimated_memory, self.memory):
            problems.append(f"{self.memory:.2f} GB were estimated as {self.estimated_memory:.2f} GB")
        return problems


def _is_close(estimated: float, measured: float) -> bool:
    return abs(estimated - measured) <= _TOLERANCE * measured


@dataclass(frozen=True)
class _Finished:
    status: int
    text: str
    seconds: float
    gigabytes: float


def attempt(python: str, folder: Path, combination: Combination) -> Outcome:
    """Returns the outcome of one attempt with the commands of a Python, in a new folder."""
    folder.mkdir(parents=True)
    run = folder / "run"
    training = ["-m", "experiments.train", *combination.overrides(), f"output={run}"]
    dry = _finished([python, *training, "dry_run=true"], folder)
    if dry.status:
        return Outcome(_end_of("dry run", dry))
    trained = _finished([python, *training], folder)
    if trained.status:
        return Outcome(_end_of("training", trained))
    evaluated = _finished([python, "-m", "experiments.evaluate", *_evaluation(run)], folder)
    if evaluated.status:
        return Outcome(_end_of("evaluation", evaluated))
    losses = [json.loads(line)["loss"] for line in (run / "history.jsonl").read_text().splitlines()]
    outputs = [json.loads(line)["output"] for line in (run / "predictions.jsonl").read_text().splitlines()]
    return Outcome(
        first_loss=losses[0],
        last_loss=losses[-1],
        seconds=trained.seconds,
        estimated_seconds=_number(r"time, without evaluations: .*?\((\d+) s\)", dry.text),
        memory=trained.gigabytes,
        estimated_memory=_number(r"memory: ([\d.]+) GB", dry.text),
        captions=len(outputs),
    )


def _evaluation(run: Path) -> list[str]:
    return [f"run={run}", "limit=3", "shots=[0,2]", "controls=[]", "max_new_tokens=8"]


def _finished(command: list[str], folder: Path) -> _Finished:
    """Returns how a command ended, with its time and the most memory that one of its processes had."""
    log = folder / "log.txt"
    start = time.monotonic()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    return _Finished(process.returncode, log.read_text(encoding="utf-8"), seconds, usage.ru_maxrss * 1024 / 1e9)


def _end_of(name: str, finished: _Finished) -> str:
    lines = [line for line in finished.text.splitlines() if line.strip()]
    return f"{name}: exit status {finished.status}: " + " | ".join(lines[-_SHOWN_LINES:])


def _number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match is not None, f"the dry run does not say {pattern}"
    return float(match[1])
