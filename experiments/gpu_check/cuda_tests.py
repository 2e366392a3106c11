"""Part: the tests of everything whose result depends on the device, on the device of the check."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from experiments.gpu_check.check_parts import Save, Settings, SkippedError
from flamingo.utils.devices import use_device

_ROOT = Path(__file__).parent.parent.parent
#: Files and folders of tests that take their device from ``pytest --device``.
TESTS = ("tests/model", "tests/training", "tests/inference")
#: With tiny sizes.
FEW_TESTS = ("tests/model/test_modeling.py",)
#: Processes, if pytest-xdist is installed.
_PROCESSES = 4


def run(settings: Settings, save: Save) -> None:
    """Runs the tests and records the numbers, and the names of those that fail.

    Raises:
        SystemExit: With pytest's status, if a test fails.
    """
    if find_spec("pytest") is None:
        raise SkippedError("pytest is not installed")
    device = use_device(settings.device)
    report = settings.output / "cuda_tests.txt"
    tests = FEW_TESTS if settings.small else TESTS
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--device",
        device.type,
        "-q",
        "-rfE",
        "--tb=short",
        "--continue-on-collection-errors",
        *tests,
    ]
    if not settings.small and find_spec("xdist") is not None:
        command += ["-n", str(_PROCESSES)]
    with report.open("w", encoding="utf-8") as stream:
        status = subprocess.run(command, cwd=_ROOT, stdout=stream, stderr=subprocess.STDOUT).returncode
    output = report.read_text(encoding="utf-8")
    print(output)
    last = output.strip().splitlines()[-1]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    text = f"`{' '.join(command[1:])}`: {last}\n"
    if failed:
        text += "\n" + "\n".join(f"- `{name}`" for name in failed) + "\n"
    save({"status": status, "summary": last, "failed": failed}, text)
    if status != 0:
        sys.exit(status)
