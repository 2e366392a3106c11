"""What a training calls: the values of its fusion for the history, records and samples for its tracker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.setup.build import TrainingParts
from experiments.setup.preparation import SAMPLE_TOKENS
from experiments.trackers import NONE
from experiments.train import TrainConfig
from flamingo.training.callbacks import Callbacks, fusion_measures
from flamingo.utils.devices import processes


@contextmanager
def training_callbacks(
    parts: TrainingParts, config: TrainConfig, output: Path, on_save: Callable[[], None] | None = None
) -> Iterator[Callbacks]:
    """Yields what a training calls. Records and samples go to the tracker, whose run ends with the block.

    Args:
        parts: Of the training.
        config: Of the training.
        output: The folder in which the tracker writes.
        on_save: Is called after a state is saved.
    """
    if config.tracker == NONE:
        yield Callbacks(measures=[fusion_measures], on_save=on_save)
        return
    # A program may train without a tracker, and without drawing samples.
    from experiments.trackers.tracker import Tracker, sampler

    tracker = Tracker(config, output, processes().is_main_process)
    on_sample = None
    if parts.samples:  # streamed documents have no samples
        on_sample = sampler(parts.samples, parts.model, parts.processor, tracker, SAMPLE_TOKENS)
    failed = True
    try:
        yield Callbacks(
            measures=[fusion_measures],
            on_log=tracker.log,
            on_sample=on_sample,
            on_save=on_save,
        )
        failed = False
    finally:
        tracker.finish(failed)
