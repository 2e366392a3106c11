"""A dry run of a training: its documents, images that are left out, parameters, memory and time."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from experiments.setup.build_data import TrainingRecords, images_of, training_documents
from experiments.setup.preparation import Prepared
from experiments.setup.streamed_data import streamed_documents
from experiments.setup.trial_training import Measured, measured_trial
from experiments.train import TrainConfig
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.order import Endless
from flamingo.data.records.record import by_reason
from flamingo.data.shortening import encode_shortened
from flamingo.data.text_markers import IMAGE_TOKEN
from flamingo.data.transforms.pictures import open_image
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.report.gallery import Tile, tiles_figure, words_of
from flamingo.report.style import png
from flamingo.utils.devices import HOST, device_title, peak_memory, processes
from flamingo.utils.durations import duration_text
from flamingo.utils.io import write_bytes

log = logging.getLogger(__name__)

#: The number of documents that are shown.
_SHOWN = 3
#: What a training in bfloat16 takes on a CPU after the steps of the trial: oneDNN keeps kernels for each shape of a
#: batch, 0.1 GB after 20 steps and 0.4 GB after 150. In fp32 the memory stays the same.
_KERNEL_BYTES = 150_000_000
_MB, _GB = 1e6, 1e9


def show_dry_run(prepared: Prepared, output: Path) -> None:
    """Logs a description of the training, and draws some documents into a picture next to the run's folder.

    Args:
        prepared: The training.
        output: The folder of the run. It is not created.
    """
    started = time.time() - psutil.Process().create_time()
    config, parts = prepared.config, prepared.parts
    if parts is None:
        log.info("%s is already trained; overwrite=true trains it again", output)
        return
    data = config.data.without_neighbours()
    documents = training_documents(data, parts.records, parts.processor.template, None, config.training.seed)
    shown = documents | streamed_documents(data, parts.processor, config.training.seed)
    _show_documents(shown, parts.processor, output.with_name(f"{output.name}.dry_run.png"))
    _log_records(parts.records)
    _log_parameters(parts.model)
    measured = measured_trial(replace(config, data=data), parts, documents)
    _log_estimates(config, parts.records, measured, started)
    log.info("dry_run: nothing was trained or kept; without dry_run=true the training starts")


# ------------------------------------------------------------------------------- documents


def _show_documents(documents: Mapping[str, Endless[Document]], processor: FlamingoProcessor, picture: Path) -> None:
    """Logs the text of some documents of the data sets in turn, and draws their images."""

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
    """Returns a text in which a count replaces repeated image markers."""

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


def _log_estimates(config: TrainConfig, records: TrainingRecords | None, measured: Measured, started: float) -> None:
    training = config.training
    num_pictures = 0
    if measured.feature_bytes and records is not None:
        images = images_of(config.data, records)
        num_pictures = len({str(frame) for image in images for frame in image.frames})
    features = num_pictures * measured.picture
    steps = training.steps * measured.step
    num_samples = training.number_due(training.sample_every)
    samples = num_samples * measured.samples
    num_validations = training.number_due(training.validation_every)
    validations = num_validations * measured.validation
    num_states = training.number_due(training.save_every)
    saving = num_states * measured.state + measured.checkpoint
    start_and_end = started + measured.first_step + measured.rest
    log.info(
        "time: %s: %s to start and to end, %s for the features of %d pictures, %s for %d steps of %.3g s, "
        "%s for samples of answers (%dx), %s for held-out documents (%dx), %s to save states (%dx) and the checkpoint",
        duration_text(start_and_end + features + steps + samples + validations + saving),
        duration_text(start_and_end),
        duration_text(features),
        num_pictures,
        duration_text(steps),
        training.steps,
        measured.step,
        duration_text(samples),
        num_samples,
        duration_text(validations),
        num_validations,
        duration_text(saving),
        num_states,
    )
    if config.evaluate:
        log.info("not counted: %d evaluations, which follow the training", len(config.evaluate))
    log.info("100 steps take %s; training.steps sets their number", duration_text(100 * measured.step))
    device = processes().device
    kept = num_pictures * measured.feature_bytes
    mapped = kept + (_KERNEL_BYTES if device.type == HOST.type and training.precision == "bf16" else 0)
    log.info("memory: %.2f GB at the peak, on the %s", peak_memory(device, mapped) / _GB, device_title(device))
    log.info(
        "disk: %s of features, %s of a state (%d are kept), %s of the checkpoint",
        _size_text(kept),
        _size_text(measured.state_bytes),
        max(1, training.number_due(training.keep_every)),
        _size_text(measured.checkpoint_bytes),
    )


def _size_text(num_bytes: int) -> str:
    return f"{num_bytes / _GB:.2f} GB" if num_bytes >= _GB else f"{num_bytes / _MB:.1f} MB"
