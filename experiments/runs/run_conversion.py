"""Reads a checkpoint in one format and writes it in another."""

import logging
from pathlib import Path

import torch
from transformers import AutoConfig

from experiments.cli.command import Job
from experiments.convert import ConvertConfig
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.interop import flamingo_mini, idefics, openflamingo
from flamingo.model.composition import check_composition
from flamingo.utils.devices import use_device
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import atomic_file, atomic_folder

log = logging.getLogger(__name__)


def run_conversion(config: ConvertConfig) -> None:
    """Reads, converts and writes a checkpoint.

    Raises:
        UserError: For a checkpoint that does not fit. Nothing is written then.
    """
    checkpoint, output = Path(config.checkpoint), Path(config.output)
    if output.exists():
        raise UserError(f"{output} exists already: choose another output=FOLDER")
    if (config.source, config.target) == ("flamingo", "openflamingo"):
        _check_no_backbones(config)
        _export(checkpoint, output)
        return
    model, processor, notes = _convert(config, checkpoint)
    processor.limit_length(model.config.text_config)
    model.place(use_device(config.device))
    check_composition(model)
    with atomic_folder(output) as folder:
        model.save_pretrained(folder, include_backbones=model.config.backbones is None)
        processor.save_pretrained(folder)
    log.info("%s", summary(model, notes))
    log.info("converted: %s", output)


def _convert(
    config: ConvertConfig, checkpoint: Path
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, list[str]]:
    """Returns model, processor and notes of a converter of :mod:`flamingo.interop`.

    Raises:
        UserError: For formats without a conversion, and for a checkpoint that cannot be converted.
    """
    try:
        match config.source, config.target:
            case "openflamingo", "flamingo":
                return openflamingo.convert(checkpoint, *_backbones(config))
            case "flamingo_mini", "flamingo":
                return flamingo_mini.convert(checkpoint, *_backbones(config))
            case "idefics", "flamingo":
                return idefics.convert(checkpoint, config.vision, config.language)
            case source, target:
                raise UserError(
                    f"source={source} target={target} is not a conversion: choose source=openflamingo, idefics or "
                    "flamingo_mini, or target=openflamingo"
                )
    except OSError as error:  # transformers raises it for a missing tokenizer or image processor
        reason = str(error).split("\n")[0]
        raise UserError(f"{checkpoint} cannot be converted: {reason}") from error


def summary(model: FlamingoForConditionalGeneration, notes: list[str]) -> str:
    """Returns a text with the numbers of loaded, frozen and trained parameters."""
    counts = model.parameter_counts()
    frozen = [f"{part} {counts.pop(part):,}" for part in ("vision_model", "language_model")]
    loaded = [f"{part} {count:,}" for part, count in counts.items()]
    origin = "from the checkpoint"
    if model.config.backbones:
        origin = f"from {' and '.join(part['name'] for part in model.config.backbones.values())}"
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lines = [
        f"parameters loaded: {', '.join(loaded)}, with blocks before layers {', '.join(model.fusion.blocks)} of the "
        "language model",
        f"frozen: {', '.join(frozen)}, {origin}",
        f"trains: {num_trained:,} parameters",
    ]
    for note in notes:
        lines.append(f"note: {note}")
    return "\n".join(lines)


def _export(checkpoint: Path, output: Path) -> None:
    if not (checkpoint / "config.json").exists():
        raise UserError(f"{checkpoint} is not the folder of a checkpoint: it has no config.json")
    model = FlamingoForConditionalGeneration.from_pretrained(checkpoint)
    weights = openflamingo.export(model, FlamingoProcessor.from_pretrained(checkpoint))
    with atomic_folder(output) as folder, atomic_file(folder / "checkpoint.pt", "wb") as stream:
        torch.save(weights, stream)
    log.info("%d tensors of %s for OpenFlamingo: %s", len(weights), checkpoint, output / "checkpoint.pt")


def _backbones(config: ConvertConfig) -> tuple[str, str]:
    """Returns the names of the vision encoder and the language model.

    Raises:
        UserError: For a missing name, and for a name that is not a model.
    """
    needed = "the backbone that the checkpoint was trained with"
    if config.vision is None:
        raise UserError(f"the config needs a value for vision: {needed}")
    if config.language is None:
        raise UserError(f"the config needs a value for language: {needed}")
    from_pretrained(AutoConfig, config.vision, "vision")
    from_pretrained(AutoConfig, config.language, "language")
    return config.vision, config.language


def _check_no_backbones(config: ConvertConfig) -> None:
    for key, name in (("vision", config.vision), ("language", config.language)):
        if name is not None:
            raise UserError(f"{key}={name} is not needed: this checkpoint contains or names its backbones")


def run_job(job: Job[ConvertConfig]) -> None:
    """Runs the command."""
    run_conversion(job.load())
