"""Scalars and samples in wandb, which never end a run."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from flamingo.utils.checks import one_of

log = logging.getLogger(__name__)

#: What wandb would else write into the user's home.
_FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}


@dataclass
class WandbConfig:
    """offline needs no account and writes into the run's folder; `wandb sync` uploads it later."""

    mode: str = "offline"
    project: str = "flamingo"
    group: str | None = None

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("online", "offline", "shared", "disabled"))


class Tracker:
    """A run of wandb. Its first failure is logged as a warning; training goes on."""

    def __init__(self, config: dict[str, Any], output: Path, main_process: bool) -> None:
        """Start it.

        Args:
            config: The run's config, which wandb shows; under ``wandb`` a :class:`WandbConfig`.
            output: The run's folder, which gets everything that wandb writes.
            main_process: Whether this process logs; the others of a run do not.
        """
        self._run: Any = None
        self._has_failed = False
        self._environment = _folders(output / "wandb")
        os.environ.update(self._environment)
        settings = config["wandb"]

        def start() -> None:
            self._run = wandb.init(
                mode=settings["mode"] if main_process else "disabled",
                project=settings["project"],
                group=settings["group"],
                name=output.name,
                dir=output,
                config=config,
                settings=wandb.Settings(silent=True),
            )

        self.attempt("wandb", start)

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values of a step."""
        if self._run is not None:
            self.attempt("wandb", lambda: self._run.log(values, step=step))

    def finish(self, failed: bool) -> None:
        """End the run of wandb."""
        if self._run is not None:
            self.attempt("wandb", lambda: self._run.finish(exit_code=int(failed)))
        if self._has_failed:
            self.attempt("wandb", wandb.teardown)  # else it fails once more, with a trace, at the end of the process
        for name in self._environment:
            os.environ.pop(name, None)

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do something that training does not need: an error of it is logged once, and no more."""
        try:
            work()
        except Exception as error:
            if not self._has_failed:
                log.warning("%s has failed, and training continues: %s: %s", what, type(error).__name__, error)
            self._has_failed = True


def _folders(folder: Path) -> dict[str, str]:
    """Environment variables that let wandb write below ``folder``, but for those that the user has set."""
    folders = {name: str(folder / below) for name, below in _FOLDERS.items()}
    if not Path("~/.config/wandb").expanduser().is_dir():  # else it has settings of the user, such as a server
        folders["WANDB_CONFIG_DIR"] = str(folder / "config")
    return {name: value for name, value in folders.items() if name not in os.environ}
