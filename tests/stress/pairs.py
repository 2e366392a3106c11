"""Two processes at once on each kind of output."""

from pathlib import Path

from tests.stress.forked import Run, command
from tests.stress.kills import finish
from tests.stress.report import Report
from tests.stress.scenarios import Scenario, rows


def same_output(scenario: Scenario, expected: dict[str, str], output: Path, report: Report) -> None:
    """Start a command twice at once: one does the work, the other does nothing or refuses."""
    part = f"two at once: {scenario.name}"
    both = [Run(command(scenario.arguments(output))) for _ in range(2)]
    ended = [process.wait() for process in both]
    right = [report.check_end(part, "one of two processes", end, (0, 2)) for end in ended]
    if not all(right):
        return
    statuses = [end.status for end in ended]
    report.add(part, "finished", statuses.count(0))
    report.add(part, "refused", statuses.count(2))
    # Each of two sweeps may have run a job that the other one was refused.
    if 0 not in statuses and scenario.name != "sweep":
        report.problem(part, "neither process finished", ended[0])
    finish(part, scenario, expected, output, report)


def same_features(scenario: Scenario, undisturbed: Path, folder: Path, report: Report) -> None:
    """Let two runs with outputs of their own fill one folder of features: each picture keeps its own features."""
    part = "two at once: one folder of features"
    shared = folder / "shared"
    both = []
    for number in range(2):
        arguments = scenario.arguments(folder / str(number))
        both.append(Run(command([*arguments, f"features.folder={shared}"])))
    ended = [process.wait() for process in both]
    right = [report.check_end(part, "one of two processes", end, (0,)) for end in ended]
    if all(right):
        report.add(part, "finished", 2)
        if rows(shared) == rows(undisturbed / "features"):
            report.add(part, "equal results")
        else:
            report.problem(part, "a picture has other features than undisturbed")
