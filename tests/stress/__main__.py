"""Disturbs small runs in many ways, and prints how each one ended: python -m tests.stress"""

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers.utils.logging import disable_progress_bar

import experiments.runs.run_evaluation  # noqa: F401
import experiments.runs.run_language_pretraining  # noqa: F401
import experiments.runs.run_training  # noqa: F401
from experiments.cli.hydra_config import user_errors
from flamingo.data.sources import read_split
from flamingo.data.transforms.pictures import open_image
from tests.data.malformed import Malformed, files
from tests.stress import disk, kills, pairs
from tests.stress.forked import Ended, Run, run
from tests.stress.report import Report
from tests.stress.scenarios import Scenario, make_inputs, scenarios

#: How often each scenario is killed and resumed, :data:`tests.stress.kills.KILLS` times a run.
KILLED_RUNS = {"training": 3, "training with workers": 1, "features": 2, "evaluation": 2, "sweep": 1, "pretraining": 1}
OVERWRITTEN_RUNS = 5
LIMITED_SIZES = 16


def main() -> int:
    """Returns the exit status: 0 if nothing was lost, wrong without a word, or ended with a trace."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments of the kills")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is tried")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    report, start = Report(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        stress = Stress(Path(folder), random.Random(arguments.seed), report)
        for part in arguments.parts:
            print(f"{part} ({time.monotonic() - start:.0f} s)", flush=True)
            PARTS[part](stress)
    print(report.table())
    print(f"{time.monotonic() - start:.0f} s")
    for wrong in report.wrong:
        print(f"\nWRONG: {wrong}")
    return int(bool(report.wrong))


class Stress:
    """The undisturbed runs that all others are compared with."""

    def __init__(self, folder: Path, rng: random.Random, report: Report) -> None:
        self.folder, self.rng, self.report = folder, rng, report
        self.inputs = make_inputs(folder)
        self.scenarios = scenarios(self.inputs)
        self.undisturbed: dict[str, Ended] = {}
        self.expected: dict[str, dict[str, str]] = {}
        run(self.scenarios["training"].arguments(self.inputs.trained))
        for name, scenario in self.scenarios.items():
            output = self.output_of(name)
            ended = run(scenario.arguments(output))
            if not report.check_end("undisturbed", name, ended, (0,)):
                print(ended.output)
                sys.exit(f"{name} does not run undisturbed")
            self.undisturbed[name] = ended
            self.expected[name] = scenario.results(output)
            report.add("undisturbed", "finished")

    def output_of(self, name: str, run_name: str = "undisturbed") -> Path:
        """The output folder of a run."""
        return self.folder / run_name / name.replace(" ", "-")

    def case(self, name: str, run_name: str) -> tuple[Scenario, dict[str, str], Path]:
        """A scenario, its results, and a new output folder."""
        return self.scenarios[name], self.expected[name], self.output_of(name, run_name)


def kill(stress: Stress) -> None:
    """Fifty kills."""
    for name, number in KILLED_RUNS.items():
        for i in range(number):
            scenario, expected, output = stress.case(name, f"killed-{i}")
            kills.kill_and_resume(scenario, stress.undisturbed[name], expected, output, stress.rng, stress.report)


def other_host(stress: Stress) -> None:
    """A kill, then a start where the host has another name."""
    for name in ("training", "evaluation", "features"):
        scenario, expected, output = stress.case(name, "other-host")
        kills.another_host(scenario, expected, output, stress.undisturbed[name].seconds, stress.report)


def without_locks(stress: Stress) -> None:
    """The same where the file system has no locks."""
    for name in ("training", "evaluation"):
        scenario, expected, output = stress.case(name, "no-locks")
        kills.no_locks(scenario, expected, output, stress.undisturbed[name].seconds, stress.report)


def overwrite(stress: Stress) -> None:
    """Kills of a run that overwrites a finished one."""
    for i in range(OVERWRITTEN_RUNS):
        scenario, expected, output = stress.case("training", f"overwritten-{i}")
        finished, seconds = stress.output_of("training"), stress.undisturbed["training"].seconds
        kills.overwrite(scenario, finished, expected, seconds, output, stress.rng, stress.report)


def two_at_once(stress: Stress) -> None:
    """Two processes on each kind of output."""
    for name in ("training", "evaluation", "features", "sweep", "pretraining"):
        scenario, expected, output = stress.case(name, "pair")
        pairs.same_output(scenario, expected, output, stress.report)
    pairs.same_features(
        stress.scenarios["features"], stress.output_of("features"), stress.folder / "pair-of-features", stress.report
    )


def full_disk(stress: Stress) -> None:
    """No room from each write on, and sixteen limits of a file's size."""
    for name in ("training", "evaluation"):
        scenario, expected, output = stress.case(name, "counted")
        for call in range(disk.count_writes(scenario.arguments(output))):
            output = stress.output_of(name, f"full-{call}")
            disk.full_disk(scenario, expected, output, call, stress.report)
        for size in disk.sizes(stress.output_of(name), LIMITED_SIZES):
            output = stress.output_of(name, f"limited-{size}")
            disk.limited_size(scenario, expected, output, size, stress.report)


def malformed_files(stress: Stress) -> None:
    """Every malformed data set, read as a command reads it."""
    part = "malformed files"
    for name, malformed in files(stress.folder / "malformed").items():
        ended = Run(lambda malformed=malformed: _read(malformed)).wait()
        right = stress.report.check_end(part, name, ended, (2 if malformed.expected == "error" else 0,))
        if right and ended.errors and malformed.named not in ended.errors[0]:
            stress.report.problem(part, f"{name}: the sentence does not name {malformed.named}", ended)
        elif right:
            stress.report.add(part, "one sentence" if ended.errors else "left out and counted")


def _read(malformed: Malformed) -> None:
    logging.disable()
    with user_errors():
        source = read_split(str(malformed.path))
        for image in source.records:
            open_image(image.image.frames[0])
        if malformed.expected == "skip":
            assert (len(source.records), len(source.skipped)) == (malformed.kept, 1)


PARTS = {
    "kill": kill,
    "overwrite": overwrite,
    "other-host": other_host,
    "no-locks": without_locks,
    "two-at-once": two_at_once,
    "full-disk": full_disk,
    "malformed": malformed_files,
}


if __name__ == "__main__":
    sys.exit(main())
