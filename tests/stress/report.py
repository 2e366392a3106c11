"""The report of the disturbances: how each one ended, and the errors."""

from collections import Counter
from pathlib import Path

from tests.stress.forked import TRACE, Ended
from tests.stress.scenarios import Scenario


class Report:
    """Counts of outcomes by part, and a description of each that is wrong."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []

    def add(self, part: str, outcome: str, number: int = 1) -> None:
        """Count an outcome."""
        self.counts.setdefault(part, Counter())[outcome] += number

    def problem(self, part: str, description: str, ended: Ended | None = None) -> None:
        """Count and keep what is wrong, with the last lines that the run printed."""
        self.add(part, "WRONG")
        printed = "" if ended is None else "\n    " + "\n    ".join(ended.output.strip().splitlines()[-12:])
        self.wrong.append(f"{part}: {description}{printed}")

    def check_end(self, part: str, what: str, ended: Ended, statuses: tuple[int, ...]) -> bool:
        """Whether a run ended with one of these statuses and without a trace; else it is a problem."""
        if ended.status is None:
            self.problem(part, f"{what} hangs", ended)
        elif ended.status >= 0 and TRACE in ended.output:  # the workers of a killed process may leave traces
            self.problem(part, f"{what} ended with a trace", ended)
        elif ended.status not in statuses:
            self.problem(part, f"{what} ended with status {ended.status}", ended)
        elif ended.status == 2 and not ended.errors:
            self.problem(part, f"{what} ended with status 2 and no sentence", ended)
        else:
            return True
        return False

    def check_results(self, part: str, what: str, scenario: Scenario, output: Path, expected: dict[str, str]) -> None:
        """Compare the results of a finished run with those of an undisturbed one."""
        try:
            results = scenario.results(output)
        except OSError as error:
            self.problem(part, f"{what}: a result is missing: {error}")
            return
        if different := [name for name in expected if results.get(name) != expected[name]]:
            self.problem(part, f"{what}: other results than undisturbed: {', '.join(different)}")
        elif results.keys() != expected.keys():
            self.problem(part, f"{what}: results without a counterpart: {results.keys() - expected.keys()}")
        else:
            self.add(part, "equal results")

    def table(self) -> str:
        """A line for each part."""
        width = max(map(len, self.counts))
        lines = []
        for part, counts in self.counts.items():
            outcomes = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
            lines.append(f"{part:<{width}}  {outcomes}")
        return "\n".join(lines)
