"""Runs commands in forks of this process, which has imported everything, so that a run costs little."""

import fcntl
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Bytes that a run can print before it has to wait for this process to read them.
_PIPE_SIZE = 1 << 20
#: Seconds after which a run counts as hanging.
TIME_LIMIT = 240.0
TRACE = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Ended:
    """The end of a run.

    Attributes:
        status: Exit status; minus the signal that killed it; None if it hung and was killed by this process.
        output: What it printed to both streams.
        seconds: How long it ran.
    """

    status: int | None
    output: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines that report a user's error."""
        return [line for line in self.output.splitlines() if line.startswith("error: ")]


class Run:
    """A running command, in a process group of its own."""

    def __init__(self, target: Callable[[], None], before: Callable[[], None] | None = None) -> None:
        """Start ``target`` in a fork, after ``before``."""
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _in_child(target, before, writing)
        os.close(writing)
        self.reading = reading

    def kill(self, number: int, group: bool) -> None:
        """Send a signal to the process, or also to the processes that it has started."""
        try:
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it has ended

    def wait(self) -> Ended:
        """Wait for the end, at most :data:`TIME_LIMIT`."""
        hung = False
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() - self.start > TIME_LIMIT:
                hung = True
                self.kill(signal.SIGKILL, group=True)
            time.sleep(0.01)
        seconds = time.monotonic() - self.start
        self.kill(signal.SIGKILL, group=True)  # workers that outlived it would keep the pipe open
        with os.fdopen(self.reading, "rb") as stream:
            output = stream.read().decode(errors="replace")
        return Ended(None if hung else os.waitstatus_to_exitcode(ended[1]), output.replace("\r", "\n"), seconds)


def command(arguments: Sequence[str]) -> Callable[[], None]:
    """``python -m experiments.COMMAND ARGUMENTS...`` as a function, to be called in a fork.

    Args:
        arguments: The command's name, then its arguments.
    """
    name, *rest = arguments

    def main() -> None:
        sys.argv = [f"experiments/{name}.py", *rest]
        importlib.import_module(f"experiments.{name}").main()

    return main


def run(arguments: Sequence[str], before: Callable[[], None] | None = None) -> Ended:
    """Run a command from its start to its end."""
    return Run(command(arguments), before).wait()


def _in_child(target: Callable[[], None], before: Callable[[], None] | None, writing: int) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor in (1, 2):
            os.dup2(writing, descriptor)
        os.close(writing)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(Path(__file__).parents[2])
        if before is not None:
            before()
        target()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
