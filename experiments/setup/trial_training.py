"""Runs a few steps of a training in a temporary folder, and measures the time and disk space of each part."""

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.setup.build import TrainingParts
from experiments.setup.build_data import build_data_sets
from experiments.setup.build_monitoring import num_held_out_groups
from experiments.setup.training_callbacks import training_callbacks
from experiments.train import TrainConfig
from flamingo import Document
from flamingo.data.document import Image
from flamingo.data.order import Endless
from flamingo.history import read_history
from flamingo.inference.features import FeatureStore
from flamingo.model.packed_attention import prepared_masks
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.parallel import Parallel
from flamingo.training.step import DataSet
from flamingo.training.validation import HeldOut, held_out_losses
from flamingo.utils.devices import processes
from flamingo.utils.memory import keep_memory, out_of_memory

#: The number of timed steps, after a first one that is not timed.
_TIMED_STEPS = 3


@dataclass(frozen=True)
class Measured:
    """The seconds, and the bytes on the disk, of the parts of a training."""

    #: Of a step, in which batches of all data sets are trained on; of the first one, how much longer it takes.
    step: float
    first_step: float
    #: Of the frozen encoder, for a picture whose features are not kept yet.
    picture: float
    #: Of the sample answers that are logged at once.
    samples: float
    #: Of the loss of all held-out documents.
    validation: float
    #: Of a state, and of the checkpoint.
    state: float
    checkpoint: float
    #: Of all else, such as the start and the end of the tracker's run.
    rest: float
    feature_bytes: int
    state_bytes: int
    checkpoint_bytes: int


class _Moments:
    """The times of a training's last record, samples and state."""

    def __init__(self) -> None:
        self.record = self.samples = self.state = 0.0

    def noted(self, callbacks: Callbacks) -> Callbacks:
        """Returns the callbacks, each of which notes the time of its end."""

        def on_log(record: dict[str, Any]) -> None:
            if callbacks.on_log is not None:
                callbacks.on_log(record)
            self.record = self.samples = time.monotonic()

        def on_sample(step: int) -> None:
            if callbacks.on_sample is not None:
                callbacks.on_sample(step)
            self.samples = time.monotonic()

        def on_save() -> None:
            self.state = time.monotonic()

        return Callbacks(callbacks.measures, on_log, on_sample, on_save)


def measured_trial(config: TrainConfig, parts: TrainingParts, documents: Mapping[str, Endless[Document]]) -> Measured:
    """Returns the time and disk space of some training steps, with features of their images.

    The model is trained. The last step is followed by samples, if the config wants any, and by a state.

    Args:
        config: The training, without documents of similar images.
        parts: Its parts.
        documents: The documents of each data set.
    """
    steps = 1 + max(_TIMED_STEPS, len(config.data.documents))
    sample_every = steps if config.training.sample_every else 0
    training = replace(
        config.training,
        steps=steps,
        log_every=1,
        save_every=steps,
        keep_every=0,
        sample_every=sample_every,
        validate_every=0,
    )
    wandb = replace(config.wandb, mode="offline")
    optimizer = replace(config.optimizer, warmup_steps=0)
    config = replace(config, training=training, wandb=wandb, optimizer=optimizer)
    keys = [f"data.documents.{name}.batch_size" for name in config.data.documents]
    with tempfile.TemporaryDirectory() as temporary, out_of_memory(*keys):
        folder = Path(temporary) / "dry_run"  # the progress bar has its name
        folder.mkdir()
        return _measured(config, parts, documents, folder)


def _measured(
    config: TrainConfig, parts: TrainingParts, documents: Mapping[str, Endless[Document]], folder: Path
) -> Measured:
    model, processor, training = parts.model, parts.processor, config.training
    features = None
    picture_seconds, num_pictures = 0.0, 0
    if parts.records is not None and config.features.folder is not None:
        keep_memory()
        features = FeatureStore(folder / "features", model, processor, config.features.batch_size)
        picture_seconds, num_pictures = _add(features, list(_shown_images(config, documents)))
    data_sets = build_data_sets(
        config.data, parts.records, processor, features, training.seed, 0, model.new_tokens.known_ids
    )
    moments = _Moments()
    start = time.monotonic()
    masks = prepared_masks(model, training.packed_attention)
    with masks, training_callbacks(parts, config, folder) as callbacks:
        train(model, data_sets, config.optimizer, training, folder, moments.noted(callbacks))
    end = time.monotonic()
    model.save_pretrained(folder / "checkpoint", include_backbones=config.include_backbones)
    processor.save_pretrained(folder / "checkpoint")
    checkpoint_seconds = time.monotonic() - end
    seconds = [record["seconds"] for record in read_history(folder / "history.jsonl")]
    step_seconds = (seconds[-1] - seconds[0]) / (training.steps - 1)
    state_seconds = moments.state - moments.samples
    sample_seconds = moments.samples - moments.record
    return Measured(
        step=step_seconds,
        first_step=max(0.0, seconds[0] - step_seconds),
        picture=picture_seconds,
        samples=sample_seconds,
        validation=_validation_seconds(config, parts, data_sets),
        state=state_seconds,
        checkpoint=checkpoint_seconds,
        rest=max(0.0, end - start - seconds[-1] - sample_seconds - state_seconds),
        feature_bytes=_size_of(folder / "features") // max(1, num_pictures),
        state_bytes=_size_of(folder / "state"),
        checkpoint_bytes=_size_of(folder / "checkpoint"),
    )


def _validation_seconds(config: TrainConfig, parts: TrainingParts, data_sets: Sequence[DataSet]) -> float:
    """Returns the seconds of a pass over all held-out documents, by the first training documents of each data set."""
    has_validation = parts.records is not None and parts.records.validation is not None
    seconds = 0.0
    for data_set in data_sets:
        entry = config.data.drawn().get(data_set.name)
        if entry is None:
            continue
        if entry.of_records and not has_validation:
            continue
        data_set.batches.position = 0
        start = time.monotonic()
        batch = next(iter(data_set.batches))
        held_out = HeldOut(data_set.name, [batch], data_set.prepare)
        held_out_losses(Parallel(parts.model), [held_out], config.training.precision)
        num_batches = num_held_out_groups(entry) / entry.documents.batch_size / processes().num_processes
        seconds += num_batches * (time.monotonic() - start)
    return seconds


def _add(features: FeatureStore, images: Sequence[Image]) -> tuple[float, int]:
    """Adds the features of images.

    Returns:
        The seconds for each image, and the number of images.
    """
    first = features.add(images[:1])  # the first pass through the encoder is slower
    start = time.monotonic()
    added = features.add(images)
    return (time.monotonic() - start) / max(1, added), first + added


def _shown_images(config: TrainConfig, documents: Mapping[str, Endless[Document]]) -> Iterable[Image]:
    """Yields the images of the documents of all steps."""
    training = config.training
    for name, endless in documents.items():
        kind = config.data.documents[name].documents
        number = training.steps * training.accumulate * kind.batch_size * processes().num_processes
        for group in range(number):
            for chunk in endless[group * kind.group_size].chunks():
                if chunk.image is not None:
                    yield chunk.image


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
