"""What a command is: its config, what it runs, and how it ends by a signal."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from flamingo.utils.errors import Stopped

_HERE = Path(__file__).parent.parent
#: The folder of the configs: in the installed package, or beside it in the repository.
CONF = next(folder for folder in (_HERE / "conf", _HERE.parent / "conf") if folder.is_dir())

Config = TypeVar("Config")


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A run of a command, as its command line asks for it."""

    #: The run's folder.
    output: Path
    overrides: list[str]
    #: Returns the config. Raises UserError, with the key, for a value that is missing or that a dataclass refuses.
    load: Callable[[], Config]


@dataclass(frozen=True)
class Command:
    """A command, whose config is ``conf/NAME.yaml``."""

    name: str
    #: The dataclass of the config.
    schema: type
    #: ``"module:function"``, which is called with a :class:`Job`. It may need torch: the command line needs none.
    run: str
    #: Raises UserError, with the key, for values of the config that contradict each other.
    check: Callable[[Any], object]
    #: Whether ``-m`` runs it with several values of a key, each in a folder of its own.
    sweeps: bool


#: The commands by name; a command is added when its module is imported.
COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    schema: type[Config],
    run: str,
    check: Callable[[Any], object] = lambda config: None,
    sweeps: bool = False,
) -> Callable[[], None]:
    """Returns the main function of a command, whose arguments are those of :class:`Command`.

    A user's error ends the command with one sentence and exit status 2; every other exception keeps its trace.
    """
    COMMANDS[name] = Command(name, schema, run, check, sweeps)

    def main() -> None:
        # A program may import a command and call what it stands on without Hydra.
        from experiments.cli.hydra_config import run_command

        run_command(COMMANDS[name])

    return main


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
