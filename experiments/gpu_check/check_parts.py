"""The parts of the check in the order of their start, with their time limits and arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: JSON values by name.
JSON = dict[str, Any]
#: Folders in OUTPUT: recorded values, printed output, runs of the commands. A new check removes them.
FOLDERS = (RECORDED, LOGS, RUNS) = ("parts", "logs", "runs")
#: Records the values of a part and its section of the report, in Markdown. A later call replaces an earlier one.
Save = Callable[[JSON, str], None]


@dataclass(frozen=True)
class Settings:
    """The arguments of all parts."""

    #: The folder of the report.
    output: Path
    #: The device of all parts; None: the best one there is.
    device: str | None
    #: Whether sizes are tiny. All parts then run on a CPU within a minute.
    small: bool

    def run_folder(self, name: str) -> Path:
        """Returns the folder of a run of a command."""
        return self.output / RUNS / name


class SkippedError(Exception):
    """The reason why a part cannot run here. It ends the part."""


@dataclass(frozen=True)
class Part:
    """A part of the check, which runs in its own process."""

    name: str
    #: "module:function", called with :class:`Settings` and :data:`Save`.
    location: str
    #: The time limit in seconds.
    limit: int
    #: Whether it measures speed and therefore runs alone. Neighbouring parts that do not measure run in parallel.
    measures: bool


_HERE = "experiments.gpu_check"

#: The parts in the order of their start.
PARTS = (
    Part("machine", f"{_HERE}.machine:measure", 40, measures=True),
    Part("training_step", f"{_HERE}.training_step:measure", 90, measures=True),
    Part("compiled_step", f"{_HERE}.training_step:measure_compiled", 120, measures=True),
    Part("few_shot", f"{_HERE}.few_shot_speed:measure", 90, measures=True),
    Part("open_flamingo", f"{_HERE}.open_flamingo_step:measure", 120, measures=True),
    Part("profile", f"{_HERE}.step_profile:measure", 60, measures=True),
    Part("cuda_tests", f"{_HERE}.cuda_tests:run", 240, measures=False),
    Part("demo", f"{_HERE}.demo:run", 180, measures=False),
    Part("captioning", f"{_HERE}.photograph_runs:captioning", 120, measures=False),
    Part("reward", f"{_HERE}.photograph_runs:reward", 120, measures=False),
    Part("pretrain_vision", f"{_HERE}.short_pretraining:vision", 120, measures=False),
    Part("pretrain_language", f"{_HERE}.short_pretraining:language", 120, measures=False),
    Part("attention", f"{_HERE}.attention_times:measure", 90, measures=True),
)
#: The time limit of all parts together, in seconds.
TOTAL = 8 * 60
