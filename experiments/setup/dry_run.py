"""A dry run of a training: its documents, what is left out, its parameters, memory and time. Nothing of it is kept."""

import logging
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from experiments.schema import DataConfig, DataSetConfig
from experiments.setup.build_data import TrainingRecords, build_data_sets, images_of, training_documents
from experiments.setup.preparation import Prepared
from experiments.train import TrainConfig
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.data.order import Endless
from flamingo.data.record import by_reason
from flamingo.data.shortening import encode_shortened
from flamingo.data.text_markers import IMAGE_TOKEN
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.features import FeatureStore
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.report.gallery import Tile, tiles_figure, words_of
from flamingo.report.style import png
from flamingo.results import read_history
from flamingo.training.loop import train
from flamingo.utils.devices import device_title, peak_memory, processes
from flamingo.utils.durations import duration_text
from flamingo.utils.io import write_bytes
from flamingo.utils.memory import keep_memory, out_of_memory

log = logging.getLogger(__name__)

#: Documents that are shown.
_SHOWN = 3
#: Steps that are timed, after a first one that is not.
_TIMED_STEPS = 3
_GB = 1e9


@dataclass(frozen=True)
class Measured:
    """What some steps of a training have taken."""

    step_seconds: float
    #: Of the frozen encoder, for a picture that is not kept yet.
    picture_seconds: float
    #: To save a state, and its size.
    save_seconds: float
    state_bytes: int
    #: Of the features of a picture, where they are kept.
    feature_bytes: int


def show_dry_run(prepared: Prepared, output: Path) -> None:
    """Logs what the training is going to be, and leaves a picture of some documents beside the run's folder.

    Args:
        prepared: The training.
        output: The folder of the run, which is not made.
    """
    started = time.time() - psutil.Process().create_time()
    config, parts = prepared.config, prepared.parts
    if parts is None:
        log.info("%s is trained already; overwrite=true trains it again", output)
        return
    data = _without_neighbours(config.data)
    documents = training_documents(data, parts.records, parts.processor.template, None, config.training.seed)
    _show_documents(documents, parts.processor, output.with_name(f"{output.name}.dry_run.png"))
    _log_records(parts.records)
    _log_parameters(parts.model)
    keys = [f"data.documents.{name}.batch_size" for name in config.data.documents]
    with tempfile.TemporaryDirectory() as folder, out_of_memory(*keys):
        measured = _measure(replace(config, data=data), prepared, documents, Path(folder))
    _log_estimates(config, parts.records, measured, started)
    log.info("dry_run: nothing was trained and nothing is kept; without dry_run=true the training begins")


def _without_neighbours(config: DataConfig) -> DataConfig:
    """Returns the data with random images in the place of neighbours, which are found by the features of all images."""
    entries = {}
    for name, entry in config.documents.items():
        entries[name] = DataSetConfig(entry.documents.without_neighbours(), entry.loss)
    return replace(config, documents=entries)


# ------------------------------------------------------------------------------- what is trained on


def _show_documents(documents: Mapping[str, Endless[Document]], processor: FlamingoProcessor, picture: Path) -> None:
    """Logs the text of some documents, of each data set in turn, and draws their images."""

    def encoded(one: Sequence[Document]) -> tuple[Document, list[int]]:
        return one[0], processor.encode(one[0], pixels=False).input_ids.tolist()

    names = list(documents)
    tiles: list[Tile] = []
    for number in range(_SHOWN):
        name = names[number % len(names)]
        (document, ids), _ = encode_shortened([documents[name][number // len(names)]], encoded)
        text = _shortened(processor.tokenizer.decode(ids))
        log.info("document %d, of %s, %d tokens: %s", number + 1, name, len(ids), text)
        tiles += _tiles(document, f"document {number + 1}")
    write_bytes(picture, png(tiles_figure(tiles, columns=6)))
    log.info("their images: %s", picture)


def _shortened(text: str) -> str:
    """Returns a text with the number of markers where visual tokens have one each."""

    def counted(match: re.Match[str]) -> str:
        return f"{IMAGE_TOKEN}x{len(match[0]) // len(IMAGE_TOKEN)}"

    return re.sub(f"(?:{re.escape(IMAGE_TOKEN)}){{2,}}", counted, text)


def _tiles(document: Document, name: str) -> list[Tile]:
    tiles = []
    chunks = [chunk for chunk in document.chunks() if chunk.image is not None]
    for number, chunk in enumerate(chunks, start=1):
        assert chunk.image is not None
        text = "".join(part.text for part in chunk.texts)
        picture = open_image(chunk.image.frames[0])
        picture.thumbnail((400, 400))
        tiles.append(Tile(picture, f"{name}, image {number}", (words_of(text),)))
    return tiles


def _log_records(records: TrainingRecords | None) -> None:
    if records is None:
        return
    for name, split in (("training", records.training), ("samples", records.samples)):
        why = by_reason(split.skipped) or "none"
        log.info("%s: %d images; left out: %d: %s", name, len(split.records), len(split.skipped), why)
        if split.shortened:
            log.info("%s: captions of %d images are cut: %s", name, len(split.shortened), by_reason(split.shortened))


def _log_parameters(model: FlamingoForConditionalGeneration) -> None:
    for part in BACKBONES + TRAINED_PARTS:
        parameters = list(getattr(model, part).parameters())
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in parameters) - trained
        log.info("parameters of %s: %.2fM trained, %.2fM frozen", part, trained / 1e6, frozen / 1e6)


# ------------------------------------------------------------------------------- memory and time


def _measure(
    config: TrainConfig, prepared: Prepared, documents: Mapping[str, Endless[Document]], folder: Path
) -> Measured:
    """Trains some steps in a temporary folder, with features of the images that they show."""
    assert prepared.parts is not None
    model, processor, records = prepared.parts.model, prepared.parts.processor, prepared.parts.records
    steps = 1 + max(_TIMED_STEPS, len(documents))
    training = replace(config.training, steps=steps, log_every=1, save_every=steps, sample_every=0)
    features = None
    picture_seconds, feature_bytes = 0.0, 0
    if records is not None and config.features.folder is not None:
        keep_memory()
        features = FeatureStore(folder / "features", model, processor, config.features.batch_size)
        images = list(_shown_images(config, documents, steps))
        features.add(images[:1])  # the first pass through the encoder is slower
        start = time.monotonic()
        added = features.add(images)
        picture_seconds = (time.monotonic() - start) / max(1, added)
        feature_bytes = _size_of(folder / "features") // (1 + added)
    seed = config.training.seed
    known_ids = model.new_tokens.known_ids
    data_sets = build_data_sets(config.data, records, processor, features, seed, 0, known_ids)
    start = time.monotonic()
    train(model, data_sets, replace(config.optimizer, warmup_steps=0), training, folder)
    seconds = [record["seconds"] for record in read_history(folder / "history.jsonl")]
    return Measured(
        step_seconds=(seconds[-1] - seconds[0]) / (steps - 1),
        picture_seconds=picture_seconds,
        save_seconds=time.monotonic() - start - seconds[-1],
        state_bytes=_size_of(folder / "state"),
        feature_bytes=feature_bytes,
    )


def _shown_images(config: TrainConfig, documents: Mapping[str, Endless[Document]], steps: int) -> Iterable[Image]:
    """Yields the images of the documents of the first steps."""
    for name, endless in documents.items():
        kind = config.data.documents[name].documents
        number = steps * config.training.accumulate * kind.batch_size * processes().num_processes
        for group in range(number):
            for chunk in endless[group * kind.group_size].chunks():
                if chunk.image is not None:
                    yield chunk.image


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _log_estimates(config: TrainConfig, records: TrainingRecords | None, measured: Measured, started: float) -> None:
    training = config.training
    num_pictures = 0
    if measured.feature_bytes and records is not None:
        images = images_of(config.data, records)
        num_pictures = len({str(frame) for image in images for frame in image.frames})
    features = num_pictures * measured.picture_seconds
    steps = training.steps * measured.step_seconds
    saves = (1 + training.steps // training.save_every) * measured.save_seconds
    total = started + features + steps + saves
    log.info(
        "time, without evaluations: %s (%.0f s): %s to start, %s for the features of %d pictures, "
        "%s for %d steps of %.3g s, %s to save",
        duration_text(total),
        total,
        duration_text(started),
        duration_text(features),
        num_pictures,
        duration_text(steps),
        training.steps,
        measured.step_seconds,
        duration_text(saves),
    )
    device = processes().device
    kept = num_pictures * measured.feature_bytes
    log.info("memory: %.2f GB of %s", peak_memory(device, kept) / _GB, device_title(device))
    log.info("disk: %.2f GB of features, %.2f GB of a state", kept / _GB, measured.state_bytes / _GB)
