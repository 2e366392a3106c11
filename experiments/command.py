"""The decorator that makes a function of a config a command."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Generic, TypeVar

from flamingo.utils.errors import Stopped

Config = TypeVar("Config")

#: The config dataclasses of the commands by name; a command adds its own when its module is imported.
SCHEMAS: dict[str, type] = {}


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A run of a command, as its command line asks for it."""

    #: The run's folder.
    output: Path
    overrides: list[str]
    #: Returns the config. Raises UserError, with the key, for a value that is missing or that a dataclass refuses.
    load: Callable[[], Config]


def command(name: str, schema: type[Config]) -> Callable[[Callable[[Job[Config]], Any]], Callable[[], None]]:
    """Decorator: a function of a job as the command whose config is ``conf/NAME.yaml``, typed by ``schema``.

    A user's error ends the command with one sentence and exit status 2; every other exception keeps its trace.
    """
    SCHEMAS[name] = schema

    def decorate(function: Callable[[Job[Config]], Any]) -> Callable[[], None]:
        @wraps(function)
        def main() -> None:
            # A program may import a command and call what it stands on without Hydra.
            from experiments.hydra_config import run_command

            run_command(name, function)

        return main

    return decorate


@contextmanager
def termination() -> Iterator[None]:
    """SIGTERM raises :class:`Stopped` inside the block, as Ctrl-C does KeyboardInterrupt. A second one ends at once."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped("", number)

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
