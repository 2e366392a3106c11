"""Part: the tests whose results depend on the device."""

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from experiments.gpu_check.check_parts import Save, Settings, SkippedError
from flamingo.utils.devices import use_device

_ROOT = Path(__file__).parent.parent.parent
#: Files and folders of tests that take their device from ``pytest --device``.
TESTS = ("tests/model", "tests/training", "tests/inference")
#: The same, with tiny sizes.
FEW_TESTS = ("tests/model/fusion/test_cross_attention.py",)
#: The number of processes, if pytest-xdist is installed.
_PROCESSES = 6
#: Seconds between two records of the results so far.
_RECORD_EVERY = 5.0
_OUTCOME = "(?P<outcome>PASSED|FAILED|ERROR|SKIPPED)"
#: Lines of pytest -vv: of a test, of a test by pytest-xdist, and of a file that cannot be imported.
_LINES = (
    re.compile(rf"(?P<name>tests/.+::.+) {_OUTCOME}( \(.*\))?( +\[ *\d+%\])?"),
    re.compile(rf"\[gw\d+\] \[ *\d+%\] {_OUTCOME} (?P<name>tests/.+::.+)"),
    re.compile(rf"{_OUTCOME} (?P<name>tests/[^ :]+\.py)( - .*)?"),
)


def run(settings: Settings, save: Save) -> None:
    """Runs the tests, and records their numbers and the names of failures while they run.

    Raises:
        SkippedError: If pytest is not installed.
        SystemExit: With pytest's status, if a test fails.
    """
    if find_spec("pytest") is None:
        raise SkippedError("pytest is not installed")
    device = use_device(settings.device)
    command = [sys.executable, "-m", "pytest", "--device", device.type, "-vv", "--tb=short"]
    command.append("--continue-on-collection-errors")
    command += FEW_TESTS if settings.small else TESTS
    if not settings.small and find_spec("xdist") is not None:
        command += ["-n", str(_PROCESSES)]
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    names: dict[str, set[str]] = {"PASSED": set(), "FAILED": set(), "ERROR": set(), "SKIPPED": set()}
    recorded = time.monotonic()
    for line in process.stdout:
        print(line, end="")
        tested = outcome_of(line)
        if tested is not None:
            name, outcome = tested
            names[outcome].add(name)
        if time.monotonic() - recorded > _RECORD_EVERY:
            _save(command, names, save)
            recorded = time.monotonic()
    _save(command, names, save)
    if process.wait() != 0:
        sys.exit(process.returncode)


def outcome_of(line: str) -> tuple[str, str] | None:
    """Returns the name and the outcome of a test in a line of pytest's output; None for any other line."""
    for pattern in _LINES:
        found = pattern.fullmatch(line.strip())
        if found is not None:
            return found["name"].strip(), found["outcome"]
    return None


def _save(command: list[str], names: dict[str, set[str]], save: Save) -> None:
    numbers = {outcome.lower(): len(tests) for outcome, tests in names.items()}
    failed = sorted(names["FAILED"] | names["ERROR"])
    counts = ", ".join(f"{number} {outcome}" for outcome, number in numbers.items())
    text = f"`{' '.join(command[1:])}`: {counts}\n"
    if failed:
        text += "\n" + "\n".join(f"- `{name}`" for name in failed) + "\n"
    save({"numbers": numbers, "failed": failed}, text)
