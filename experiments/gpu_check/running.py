"""Runs parts, each in a process that is ended at its time limit: those that measure alone, the others at once."""

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
#: A part that would have less is not started.
_LEAST_SECONDS = 5.0
#: Lines of a part's output that the report shows if the part has failed.
_LINES_OF_FAILURE = 15
#: Processors for each part of those that run at once, and the most of these.
_CORES_OF_PART, _MOST_AT_ONCE = 4, 4


@dataclass
class Result:
    """What has become of a part."""

    part: str
    #: waiting, running, done, skipped, failed, "out of time", or "not started".
    status: str = "waiting"
    #: Why it was skipped, or the end of the output of a part that failed.
    reason: str = ""
    seconds: float = 0.0
    values: JSON = field(default_factory=dict)
    #: Its section of the report, in Markdown.
    text: str = ""


#: Is given the results of all parts, and that of the part that has begun or ended.
Report = Callable[[Sequence[Result], Result], None]


class Runner:
    """The parts of one check, and their results."""

    def __init__(self, parts: Sequence[Part], settings: Settings, total: float, report: Report) -> None:
        """
        Args:
            parts: In the order in which they are started.
            settings: What all parts are given.
            total: Seconds of all parts together.
            report: Is called before and after each part.
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
            # After Ctrl-C or SIGTERM some are running.
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
        """Runs a part in its own process, and returns its status with the reason."""
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
    """Ends a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process_id, signal.SIGKILL)


def _end_of(log: Path) -> str:
    """Returns the last lines of a part's output."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "the end of its output:\n" + "\n".join(lines[-_LINES_OF_FAILURE:])
