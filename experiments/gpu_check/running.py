"""Runs parts as processes with time limits: those that measure run alone, the others in parallel."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from experiments.gpu_check.check_parts import JSON, LOGS, Part, Settings
from experiments.gpu_check.part_process import results_file

ROOT = Path(__file__).parent.parent.parent
#: A part with fewer seconds left is not started.
_LEAST_SECONDS = 5.0
#: The number of output lines of a failed part in the report.
_LINES_OF_FAILURE = 15
#: Processors for each part that runs in parallel, and the largest number of such parts.
_CORES_OF_PART, _MOST_AT_ONCE = 4, 4


@dataclass
class Result:
    """The result of a part."""

    part: str
    #: waiting, running, done, skipped, failed, "out of time", or "not started".
    status: str = "waiting"
    #: Why the part was skipped, or the end of the output of a failed part.
    reason: str = ""
    seconds: float = 0.0
    values: JSON = field(default_factory=dict)
    #: The part's section of the report, in Markdown.
    text: str = ""


#: Called with the results of all parts, and that of the part that started or ended.
Report = Callable[[Sequence[Result], Result], None]


class Runner:
    """The parts of a check and their results."""

    def __init__(self, parts: Sequence[Part], settings: Settings, total: float, report: Report) -> None:
        """Sets all parts to waiting.

        Args:
            parts: The parts in the order of their start.
            settings: The arguments of all parts.
            total: The time limit of all parts together, in seconds.
            report: Called before and after each part.
        """
        self.results = [Result(part.name) for part in parts]
        self._settings = settings
        self._report = report
        self._total = total
        self._end = time.monotonic() + total
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._parts = list(zip(parts, self.results, strict=True))

    def run(self) -> None:
        """Runs all parts. A part that fails, hangs or crashes does not end the others."""
        at_once = max(1, min(_MOST_AT_ONCE, (os.cpu_count() or 1) // _CORES_OF_PART))
        for measures, group in groupby(self._parts, key=lambda part_and_result: part_and_result[0].measures):
            self._run_group(list(group), 1 if measures else at_once)

    def _run_group(self, group: Sequence[tuple[Part, Result]], at_once: int) -> None:
        executor = ThreadPoolExecutor(at_once)
        try:
            for future in [executor.submit(self._run, part, result) for part, result in group]:
                future.result()
        finally:
            # After Ctrl-C or SIGTERM some parts still run.
            executor.shutdown(wait=False, cancel_futures=True)
            for process_id in list(self._running):
                _kill(process_id)
            executor.shutdown()

    def _run(self, part: Part, result: Result) -> None:
        limit = min(part.limit, self._end - time.monotonic())
        if limit < _LEAST_SECONDS:
            self._record(result, "not started", f"the {self._total:g} s of all parts were over")
            return
        self._record(result, "running")
        begin = time.monotonic()
        status, reason = self._run_process(part, limit)
        result.seconds = time.monotonic() - begin
        file = results_file(self._settings.output, part.name)
        recorded = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        result.values = recorded.get("values", {})
        result.text = recorded.get("text", "")
        if status == "done" and "skipped" in recorded:
            status, reason = "skipped", recorded["skipped"]
        self._record(result, status, reason)

    def _record(self, result: Result, status: str, reason: str = "") -> None:
        with self._lock:
            result.status = status
            result.reason = reason
            self._report(self.results, result)

    def _run_process(self, part: Part, limit: float) -> tuple[str, str]:
        """Runs a part in its own process.

        Returns:
            The status of the part, and the reason for it.
        """
        log = self._settings.output / LOGS / f"{part.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        size = "small" if self._settings.small else "full"
        device = self._settings.device or "best"
        module = "experiments.gpu_check.part_process"
        command = [sys.executable, "-m", module, part.name, part.location, str(self._settings.output), device, size]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "10"}
        if not part.measures:
            environment.setdefault("OMP_NUM_THREADS", str(_CORES_OF_PART))
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._running.add(process.pid)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                return "out of time", f"ended after {limit:.0f} s; " + _end_of(log)
            finally:
                _kill(process.pid)
                process.wait()
                self._running.discard(process.pid)
        if status != 0:
            return "failed", f"exit status {status}; " + _end_of(log)
        return "done", ""


def _kill(process_id: int) -> None:
    """Ends a process and all of its child processes."""
    with suppress(ProcessLookupError):
        os.killpg(process_id, signal.SIGKILL)


def _end_of(log: Path) -> str:
    """Returns the last lines of a part's output."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "the end of its output:\n" + "\n".join(lines[-_LINES_OF_FAILURE:])
