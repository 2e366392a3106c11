"""Records and samples of a training -> Weights & Biases."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from experiments.schema import JSON, as_recorded
from experiments.trackers.sample import Sample
from experiments.train import TrainConfig

#: What wandb would else write into the user's home.
_FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}


class WandbRun:
    """A run of wandb, which writes below the run's folder."""

    def __init__(self, config: TrainConfig, output: Path) -> None:
        """Starts it.

        Args:
            config: The training.
            output: The run's folder.
        """
        self._environment = _environment(output / "wandb")
        os.environ.update(self._environment)
        try:
            self._run: Any = wandb.init(
                mode=config.wandb.mode,  # type: ignore[arg-type]  # checked by WandbConfig
                project=config.wandb.project,
                group=config.wandb.group,
                name=output.name,
                dir=output,
                config=as_recorded(config),
                settings=wandb.Settings(silent=True),
            )
        except BaseException:
            self._restore_environment()
            raise

    def log(self, values: JSON, step: int) -> None:
        """Logs scalars of a step."""
        self._run.log(values, step=step)

    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Logs a table of sample answers with their pictures."""
        table = wandb.Table(columns=["document", "picture", "prompt", "output", "reference"])
        for sample in samples:
            table.add_data(sample.document, wandb.Image(sample.picture), sample.prompt, sample.output, sample.reference)
        self._run.log({"predictions": table}, step=step)

    def finish(self, failed: bool, has_failed: bool) -> None:
        """Ends the run.

        Args:
            failed: Whether the training failed.
            has_failed: Whether wandb failed before.
        """
        try:
            self._run.finish(exit_code=int(failed))
        except Exception:
            has_failed = True
            raise
        finally:
            if has_failed:
                wandb.teardown()  # else it fails once more, with a trace, at the end of the process
            self._restore_environment()

    def _restore_environment(self) -> None:
        for name in self._environment:
            os.environ.pop(name, None)


def _environment(folder: Path) -> dict[str, str]:
    """Returns environment variables that let wandb write below ``folder``, apart from those that the user has set."""
    variables = {name: str(folder / below) for name, below in _FOLDERS.items()}
    if not Path("~/.config/wandb").expanduser().is_dir():  # else it has settings of the user, such as a server
        variables["WANDB_CONFIG_DIR"] = str(folder / "config")
    variables["WANDB_CONSOLE"] = "off"  # its copy of the console slows the progress bar
    return {name: value for name, value in variables.items() if name not in os.environ}
