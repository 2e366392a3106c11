"""Full disks: at every write of the project, and at sizes that stop writers in other languages."""

import errno
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flamingo.utils import io
from tests.stress.forked import run
from tests.stress.kills import finish
from tests.stress.report import Report
from tests.stress.scenarios import Scenario

_write = io.write


def count_writes(arguments: list[str]) -> int:
    """The number of calls of :func:`flamingo.utils.io.write` in a run of a command."""
    calls = multiprocessing.Value("i", 0)
    run(arguments, before=_counting(calls, full_from=None))
    return calls.value


def full_disk(scenario: Scenario, expected: dict[str, str], output: Path, call: int, report: Report) -> None:
    """Let the disk be full from one write on (0: the first), then make room and start again."""
    part = f"full disk: {scenario.name}"
    calls = multiprocessing.Value("i", 0)
    ended = run(scenario.arguments(output), before=_counting(calls, full_from=call))
    if report.check_end(part, f"a full disk from write {call} on", ended, (2,)):
        report.add(part, "one sentence")
        finish(part, scenario, expected, output, report)


def limited_size(scenario: Scenario, expected: dict[str, str], output: Path, size: int, report: Report) -> None:
    """Let no file grow above ``size`` bytes, then start again without the limit."""
    part = f"limited file size: {scenario.name}"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    ended = run(scenario.arguments(output), before=limit)
    if report.check_end(part, f"a limit of {size} bytes", ended, (0, 2)):
        report.add(part, "finished" if ended.status == 0 else "one sentence")
        finish(part, scenario, expected, output, report)


def sizes(output: Path, number: int) -> list[int]:
    """Limits of which the first stops every file of a finished run, and the last none."""
    largest = max(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return [largest * 2 >> shift for shift in reversed(range(number))]


def _counting(calls: Any, full_from: int | None) -> Callable[[], None]:
    def counted(descriptor: int, content: bytes | memoryview) -> int:
        with calls.get_lock():
            call = calls.value
            calls.value += 1
        if full_from is not None and call >= full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _write(descriptor, content)

    def patch() -> None:
        io.write = counted

    return patch
