"""Kills at random moments, each followed by the same command, also on another host or over an earlier run."""

import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

from flamingo.utils import lock
from tests.stress.forked import Ended, Run, command, run
from tests.stress.report import Report
from tests.stress.scenarios import Scenario

#: Kills of one run before it may finish.
KILLS = 5


def kill_and_resume(
    scenario: Scenario,
    undisturbed: Ended,
    expected: dict[str, str],
    output: Path,
    rng: random.Random,
    report: Report,
    number_of_kills: int = KILLS,
) -> None:
    """Kill a run several times at random moments, resume it each time, and compare what it leaves.

    A run that finishes before its kill is compared at once, and another one takes its place.
    """
    part = f"kill: {scenario.name}"
    start = command(scenario.arguments(output))
    killed = 0
    while killed < number_of_kills:
        killing = Run(start)
        time.sleep(rng.uniform(0, undisturbed.seconds / 2))
        number_of_signal = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        killing.kill(number_of_signal, group=rng.random() < 0.5)
        ended = killing.wait()
        name = signal.Signals(number_of_signal).name
        statuses = (0, -signal.SIGKILL) if number_of_signal == signal.SIGKILL else (0, 143, -signal.SIGTERM)
        if not report.check_end(part, f"kill {killed + 1} by {name}", ended, statuses):
            return
        if ended.status == 0:
            report.check_results(part, "a run that finished between two kills", scenario, output, expected)
            shutil.rmtree(output)
        else:
            report.add(part, name)
            killed += 1
    finish(part, scenario, expected, output, report)


def another_host(scenario: Scenario, expected: dict[str, str], output: Path, seconds: float, report: Report) -> None:
    """Kill a run in the middle, and start it again where the host has another name."""
    part = f"other host: {scenario.name}"
    killing = Run(command(scenario.arguments(output)))
    time.sleep(seconds / 2)
    killing.kill(signal.SIGKILL, group=True)
    killing.wait()
    ended = run(scenario.arguments(output), before=_another_name)
    if report.check_end(part, "the start on another host", ended, (0,)):
        report.add(part, "resumed")
        report.check_results(part, "the resumed run", scenario, output, expected)


def no_locks(scenario: Scenario, expected: dict[str, str], output: Path, seconds: float, report: Report) -> None:
    """Without locks of the file system: kill a run, and start it when its last sign of life is new, then old."""
    part = f"no locks: {scenario.name}"
    killing = Run(command(scenario.arguments(output)), before=_without_flock)
    sign = output / lock.HEARTBEAT
    deadline = time.monotonic() + 10 * seconds
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killing.kill(signal.SIGKILL, group=True)
    killing.wait()
    ended = run(scenario.arguments(output), before=_without_flock)
    if not report.check_end(part, "the start at once", ended, (2,)):
        return
    report.add(part, "refused at once")
    os.utime(sign, times=(sign.stat().st_mtime - lock.STALE - 1,) * 2)
    ended = run(scenario.arguments(output), before=_without_flock)
    if report.check_end(part, "the start two minutes later", ended, (0,)):
        report.add(part, "resumed two minutes later")
        report.check_results(part, "the resumed run", scenario, output, expected)


def overwrite(
    scenario: Scenario,
    finished: Path,
    expected: dict[str, str],
    seconds: float,
    output: Path,
    rng: random.Random,
    report: Report,
) -> None:
    """Kill a run that overwrites a finished one: the folder then has the one whole, or a state of the other."""
    part = f"overwriting: {scenario.name}"
    shutil.copytree(finished, output)
    killing = Run(command([*scenario.arguments(output), "training.steps=9", "overwrite=true"]))
    time.sleep(rng.uniform(0, seconds))
    killing.kill(rng.choice([signal.SIGKILL, signal.SIGTERM]), group=True)
    killed = killing.wait()
    ended = run(scenario.arguments(output))
    if not report.check_end(part, "the earlier command", ended, (0, 2)):
        return
    if ended.status == 0:
        report.add(part, "earlier run whole")
        report.check_results(part, "the earlier run", scenario, output, expected)
    elif "training.steps was 9, is 8" in ended.output and (output / "state").is_dir():
        report.add(part, "new run has a state")
        again = run([*scenario.arguments(output), "training.steps=9"])
        if report.check_end(part, "the new run, continued", again, (0,)):
            report.add(part, "new run finished")
    else:
        report.problem(part, f"neither run is there after the kill ({killed.status})", ended)
    if (output / ".previous").exists():
        report.problem(part, "the earlier run is still set aside", ended)


def finish(part: str, scenario: Scenario, expected: dict[str, str], output: Path, report: Report) -> None:
    """Run the command to its end and compare the results."""
    ended = run(scenario.arguments(output))
    if report.check_end(part, "the last start", ended, (0,)):
        report.check_results(part, "the finished run", scenario, output, expected)


def _without_flock() -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = flock


def _another_name() -> None:
    node = os.uname()
    renamed = os.uname_result((node.sysname, "another-host", node.release, node.version, node.machine))
    socket.gethostname = lambda: "another-host"
    os.uname = lambda: renamed
