"""Records and samples of a training -> its tracker, whose errors never end the training."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.schema import JSON
from experiments.setup.build_data import sample_prompt
from experiments.trackers import TRACKERS
from experiments.trackers.sample import Sample
from experiments.train import TrainConfig
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)


class Tracker:
    """The run of a tracker. Its first failure is logged as a warning, and training continues."""

    def __init__(self, config: TrainConfig, output: Path, main_process: bool) -> None:
        """Starts it.

        Args:
            config: The training, whose values the tracker shows.
            output: The run's folder, which gets everything that the tracker writes.
            main_process: Whether this process logs; the others of a run do not.
        """
        self._run: Any = None
        self._name = config.tracker
        self._has_failed = False

        def start() -> None:
            self._run = import_name(TRACKERS[self._name])(config, output)

        if main_process:
            self.attempt(self._name, start)

    def log(self, record: JSON) -> None:
        """Logs a record of the history, without what is null."""
        if self._run is not None:
            values = {key: value for key, value in flatten_record(record).items() if value is not None}
            self.attempt(self._name, lambda: self._run.log(values, record["step"]))

    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Logs sample answers."""
        if self._run is not None:
            self.attempt(self._name, lambda: self._run.log_samples(samples, step))

    def finish(self, failed: bool) -> None:
        """Ends the tracker's run."""
        if self._run is not None:
            self.attempt(self._name, lambda: self._run.finish(failed, self._has_failed))

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Does something that training does not need: its first error is logged, and later ones are not."""
        try:
            work()
        except Exception as error:
            if not self._has_failed:
                log.warning("%s has failed, and training continues: %s: %s", what, type(error).__name__, error)
            self._has_failed = True


def flatten_record(record: JSON) -> JSON:
    """Returns a record of the history without its step, with ``gates/LAYER.PART`` for what is nested."""
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
        samples = []
        for prompt, document, output in zip(prompts, documents, outputs, strict=True):
            image = prompt.chunks()[-1].image
            question, answer = document.chunks()[-1].texts
            assert image is not None
            picture = open_image(image.frames[0])
            samples.append(Sample(document.id, picture, question.text, output, answer.text.strip()))
        tracker.log_samples(samples, step)

    return lambda step: tracker.attempt("a sample", lambda: sample(step))
