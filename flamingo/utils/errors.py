"""The exceptions that end a command: an error that a user can fix, or a signal."""

import signal
from collections.abc import Sequence
from typing import Any


class UserError(ValueError):
    """A wrong key, value or file.

    The message is one sentence that names the key, value or file. The commands print it without a stack trace and exit
    with status 2. Every other exception keeps its trace.
    """


class ChoiceError(UserError):
    """A value that is not among the choices of its key."""

    def __init__(self, key: str, value: Any, choices: Sequence[Any]) -> None:
        super().__init__(f"{key} must be one of {', '.join(map(str, choices))}; got {value!r}")
        self.key, self.choices = key, choices


class FailedElsewhereError(RuntimeError):
    """Another process of this run has failed. That process reports why; the commands end this one without a word."""

    def __init__(self, process: int) -> None:
        super().__init__(f"process {process} of this run has failed")


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or a signal that a cluster sends at the end of a job's time.

    The commands print the message without a stack trace and exit with status 128 + ``signal``, as shells have it.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = number
