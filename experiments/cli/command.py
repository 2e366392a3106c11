"""A command: its config, the function that it runs, and how a signal ends it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from flamingo.utils.errors import Stopped
from flamingo.utils.torchrun import started_by_torchrun

_HERE = Path(__file__).parent.parent
#: The folder of the configs: in the installed package, or in the repository.
CONF = next(folder for folder in (_HERE / "conf", _HERE.parent / "conf") if folder.is_dir())

Config = TypeVar("Config")


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A run of a command with the values of a command line."""

    #: The run's folder.
    output: Path
    overrides: list[str]
    #: Returns the config. It raises UserError, with the key, for a value that is missing or refused by a dataclass.
    load: Callable[[], Config]


@dataclass(frozen=True)
class Command:
    """A command, whose config is ``conf/NAME.yaml``."""

    name: str
    #: The dataclass of the config.
    schema: type
    #: ``"module:function"``, called with a :class:`Job`. Its module may import torch; the command line does not.
    run: str
    #: It raises UserError, with the key, for values of the config that contradict each other.
    check: Callable[[Any], object]
    #: Whether ``-m`` runs it once for each value of a key, each run in its own folder.
    sweeps: bool


#: The commands by name. The import of its module adds a command.
COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    schema: type[Config],
    run: str,
    check: Callable[[Any], object] = lambda config: None,
    sweeps: bool = False,
) -> Callable[[], None]:
    """Returns the main function of a command, whose arguments are those of :class:`Command`.

    A :class:`UserError` ends the command with one sentence and exit status 2. Every other exception keeps its trace.
    """
    COMMANDS[name] = Command(name, schema, run, check, sweeps)

    def main() -> None:
        # Hydra is imported here: a program may import this module without it.
        from experiments.cli.hydra_config import run_command

        run_command(COMMANDS[name])

    return main


@contextmanager
def termination() -> Iterator[None]:
    """Makes SIGTERM raise :class:`Stopped` inside the block, as Ctrl-C raises KeyboardInterrupt.

    A second SIGTERM ends the process immediately; one that torchrun passes on does nothing.

    Raises:
        Stopped: At the first SIGTERM.
    """

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN if started_by_torchrun() else signal.SIG_DFL)
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
