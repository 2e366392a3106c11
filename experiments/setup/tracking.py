"""Records and samples of a training -> wandb."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from experiments.schema import JSON, WandbConfig
from experiments.setup.build_data import sample_prompt
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.flamingo_engine import FlamingoEngine

log = logging.getLogger(__name__)

#: Folders that wandb otherwise makes in the user's home.
_WANDB_FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}


class Tracker:
    """A run of wandb. Its first failure is logged as a warning, and training continues."""

    def __init__(self, config: WandbConfig, values: Mapping[str, Any], output: Path, main_process: bool) -> None:
        """Starts the run.

        Args:
            config: The mode, the project and the group.
            values: The run's config, which wandb shows.
            output: The run's folder. All files of wandb go below it.
            main_process: Whether this process logs. Only one process of a run does.
        """
        self._run: Any = None
        self._has_failed = False
        self._environment = _wandb_environment(output / "wandb")
        os.environ.update(self._environment)

        def start() -> None:
            self._run = wandb.init(
                mode=config.mode if main_process else "disabled",  # type: ignore[arg-type]  # checked by WandbConfig
                project=config.project,
                group=config.group,
                name=output.name,
                dir=output,
                config=dict(values),
                settings=wandb.Settings(silent=True),
            )

        self.attempt("wandb", start)

    def log(self, values: JSON, step: int) -> None:
        """Logs values of a step."""
        if self._run is not None:
            self.attempt("wandb", lambda: self._run.log(values, step=step))

    def finish(self, failed: bool) -> None:
        """Ends the run of wandb."""
        if self._run is not None:
            self.attempt("wandb", lambda: self._run.finish(exit_code=int(failed)))
        if self._has_failed:
            self.attempt("wandb", wandb.teardown)  # otherwise it fails again at the end of the process, with a trace
        for name in self._environment:
            os.environ.pop(name, None)

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Does work that training does not depend on. Its first error is logged, and later ones are not."""
        try:
            work()
        except Exception as error:
            if not self._has_failed:
                log.warning("%s has failed, and training continues: %s: %s", what, type(error).__name__, error)
            self._has_failed = True


def _wandb_environment(folder: Path) -> dict[str, str]:
    """Returns environment variables by which wandb writes below ``folder``, except those that the user has set."""
    folders = {name: str(folder / below) for name, below in _WANDB_FOLDERS.items()}
    if not Path("~/.config/wandb").expanduser().is_dir():  # otherwise it has settings of the user, such as a server
        folders["WANDB_CONFIG_DIR"] = str(folder / "config")
    return {name: value for name, value in folders.items() if name not in os.environ}


def flatten_record(record: JSON) -> JSON:
    """Returns a record of the history in which ``gates/<layer>.<part>`` replace the nested gates."""
    gates = {f"gates/{name}": value for name, value in record.get("gates", {}).items()}
    return {key: value for key, value in record.items() if key not in ("gates", "step")} | gates


def sampler(
    documents: Sequence[Document],
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    tracker: Tracker,
    max_new_tokens: int,
) -> Callable[[int], None]:
    """Returns a function that logs the model's last answer to each document, with the images."""
    prompts = [sample_prompt(document) for document in documents]

    def sample(step: int) -> None:
        outputs = FlamingoEngine(model, processor, batch_size=len(prompts)).generate(prompts, max_new_tokens)
        table = wandb.Table(columns=["document", "picture", "prompt", "output", "reference"])
        for prompt, document, output in zip(prompts, documents, outputs, strict=True):
            image = prompt.chunks()[-1].image
            question, answer = document.chunks()[-1].texts
            assert image is not None
            picture = wandb.Image(open_image(image.frames[0]))
            table.add_data(document.id, picture, question.text, output, answer.text.strip())
        tracker.log({"predictions": table}, step)

    return lambda step: tracker.attempt("a sample", lambda: sample(step))
