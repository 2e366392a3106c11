"""One attempt: dry run, training, evaluation and captions in processes of their own, and the outcome."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: The last lines of a failed command that are shown.
_SHOWN_LINES = 5
#: The first and the last losses whose means are compared.
_COMPARED = 3
#: An evaluation by default has more numbers of shots and controls, which take minutes with a real model.
_EVALUATION = ("shots=[0,2]", "controls=[]")
#: Estimates may be off by this share.
_TOLERANCE = 0.3


@dataclass(frozen=True)
class Combination:
    """What a user has, and how long they train."""

    data: Path
    #: The folder of the images to caption.
    images: Path
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


@dataclass
class Outcome:
    """What an attempt came to."""

    #: The exit status of each command that was started.
    statuses: dict[str, int] = field(default_factory=dict)
    #: The end of the log of the command that failed.
    error: str = ""
    #: Means over the first and the last records of the history.
    first_loss: float = 0.0
    last_loss: float = 0.0
    #: Wall time and peak memory (GB) of the training's process, and what the dry run has estimated.
    seconds: float = 0.0
    estimated_seconds: float = 0.0
    memory: float = 0.0
    estimated_memory: float = 0.0
    #: CPU seconds a second of wall time, of the training and of the dry run: another load makes another time.
    cpu_share: float = 0.0
    dry_cpu_share: float = 0.0
    #: Settings that have scores.
    scores: int = 0
    #: Images that have a row in the file of captions, and those that should have one.
    captions: int = 0
    images: int = 0

    @property
    def time_ratio(self) -> float:
        """The estimated time as a share of the measured one."""
        return self.estimated_seconds / self.seconds if self.seconds else 0.0

    @property
    def memory_ratio(self) -> float:
        """The estimated memory as a share of the measured one."""
        return self.estimated_memory / self.memory if self.memory else 0.0

    def failed_conditions(self) -> list[str]:
        """Returns the conditions that do not hold."""
        conditions = {
            "exit status": set(self.statuses.values()) == {0},
            "loss": self.last_loss < self.first_loss,
            "evaluation": self.scores > 0,
            "captions": self.captions == self.images > 0,
            "time": abs(self.time_ratio - 1) <= _TOLERANCE,
            "memory": abs(self.memory_ratio - 1) <= _TOLERANCE,
        }
        return [name for name, holds in conditions.items() if not holds]


@dataclass(frozen=True)
class _Finished:
    status: int
    text: str
    seconds: float
    gigabytes: float
    cpu_share: float


def attempt(program: Path, folder: Path, combination: Combination) -> Outcome:
    """Returns the outcome of one attempt with a ``flamingo`` program.

    The outcome is kept in the folder: an attempt that has one is not repeated, and one that was stopped starts again.
    """
    file = folder / "outcome.json"
    if file.exists():
        return Outcome(**json.loads(file.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcome = _carry_out(program, folder, combination)
    file.write_text(json.dumps(asdict(outcome), indent=1, ensure_ascii=False), encoding="utf-8")
    return outcome


def _carry_out(program: Path, folder: Path, combination: Combination) -> Outcome:
    outcome = Outcome(images=sum(1 for _ in combination.images.iterdir()))
    training = [*combination.overrides(), "output=run"]
    commands = {
        "dry run": ["train", *training, "dry_run=true"],
        "train": ["train", *training],
        "evaluate": ["evaluate", "run=run", *_EVALUATION],
        "caption": ["caption", "checkpoint=run", f"images={combination.images}", "output=captions.jsonl"],
    }
    for name, arguments in commands.items():
        finished = _finished([str(program), *arguments], folder, folder / f"{name.replace(' ', '_')}.log")
        outcome.statuses[name] = finished.status
        if finished.status:
            lines = [line for line in finished.text.splitlines() if line.strip()]
            outcome.error = f"{name}: " + " | ".join(lines[-_SHOWN_LINES:])
            return outcome
        if name == "dry run":
            outcome.estimated_seconds = _seconds(_found(r"^time: ([\w ]+)", finished.text))
            outcome.dry_cpu_share = finished.cpu_share
            outcome.estimated_memory = float(_found(r"^memory: ([\d.]+) GB", finished.text))
        elif name == "train":
            outcome.seconds, outcome.memory = finished.seconds, finished.gigabytes
            outcome.cpu_share = finished.cpu_share
            losses = [record["loss"] for record in _rows(folder / "run" / "history.jsonl")]
            outcome.first_loss, outcome.last_loss = _mean(losses[:_COMPARED]), _mean(losses[-_COMPARED:])
        elif name == "evaluate":
            scores = json.loads((folder / "run" / "scores.json").read_text(encoding="utf-8"))
            outcome.scores = len(scores)
        else:
            outcome.captions = len(_rows(folder / "captions.jsonl"))
    return outcome


def _finished(command: list[str], folder: Path, log: Path) -> _Finished:
    """Returns how a command ended, with its time and the most memory that one of its processes had."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["HF_HUB_OFFLINE"] = "1"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    share = (usage.ru_utime + usage.ru_stime) / seconds
    return _Finished(process.returncode, log.read_text(encoding="utf-8"), seconds, gigabytes, share)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, f"the dry run does not say {pattern}"
    return match[1]


def _seconds(duration: str) -> float:
    """Returns the seconds of a time such as ``3 min 20 s``."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", duration))
