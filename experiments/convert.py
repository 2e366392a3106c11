"""Makes other people's checkpoints ours, and ours OpenFlamingo's.

python -m experiments.convert source=openflamingo checkpoint=checkpoint.pt language=NAME vision=NAME output=FOLDER
python -m experiments.convert source=flamingo_mini checkpoint=FOLDER language=NAME vision=NAME output=FOLDER
python -m experiments.convert source=idefics checkpoint=FOLDER output=FOLDER
python -m experiments.convert target=openflamingo checkpoint=FOLDER output=FOLDER
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from transformers import AutoConfig

from experiments.configs import plain
from experiments.schema import command
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.interop import flamingo_mini, idefics, openflamingo
from flamingo.model.composition import check_composition
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import atomic_file, atomic_folder

log = logging.getLogger(__name__)


@dataclass
class ConvertConfig:
    """From whose format to whose: one of the two is ours."""

    #: openflamingo, idefics or flamingo_mini; or flamingo, which is ours.
    source: str = "flamingo"
    #: flamingo, or openflamingo.
    target: str = "flamingo"
    #: A file, or a folder that save_pretrained has left.
    checkpoint: str = MISSING
    #: The backbones that the checkpoint was trained with: folders or names on the hub. IDEFICS has them inside; of it
    #: these are where tokenizer and image processor come from, if its folder has none.
    language: str | None = None
    vision: str | None = None
    #: A folder that does not exist yet.
    output: str = MISSING


ConfigStore.instance().store("convert_schema", ConvertConfig)


def run_conversion(config: dict[str, Any]) -> None:
    """Read, convert and write. Raises UserError, having written nothing, for what does not fit."""
    checkpoint, output = Path(config["checkpoint"]), Path(config["output"])
    if output.exists():
        raise UserError(f"{output} is there already: choose another output=FOLDER")
    if (config["source"], config["target"]) == ("flamingo", "openflamingo"):
        _without_backbones(config)
        _export(checkpoint, output)
        return
    model, processor, notes = _converted(config, checkpoint)
    processor.limit_length(model.config.text_config)
    check_composition(model)
    with atomic_folder(output) as folder:
        model.save_pretrained(folder, include_backbones=model.config.backbones is None)
        processor.save_pretrained(folder)
    log.info("%s", account(model, notes))
    log.info("converted: %s", output)


def _converted(config: dict[str, Any], checkpoint: Path) -> Any:
    """Model, processor and notes of :mod:`flamingo.interop`."""
    try:
        match config["source"], config["target"]:
            case "openflamingo", "flamingo":
                return openflamingo.convert(checkpoint, *_backbones(config))
            case "flamingo_mini", "flamingo":
                return flamingo_mini.convert(checkpoint, *_backbones(config))
            case "idefics", "flamingo":
                return idefics.convert(checkpoint, config["vision"], config["language"])
            case source, target:
                raise UserError(
                    f"source={source} target={target} is not to be had: say source=openflamingo, idefics or "
                    "flamingo_mini, or target=openflamingo"
                )
    except OSError as error:  # transformers', of a tokenizer or an image processor that is not there
        reason = str(error).split("\n")[0]
        raise UserError(f"{checkpoint} cannot be converted: {reason}") from error


def account(model: FlamingoForConditionalGeneration, notes: list[str]) -> str:
    """What was loaded, what stays frozen, and how much of it trains."""
    counts = model.parameter_counts()
    frozen = [f"{part} {counts.pop(part):,}" for part in ("vision_model", "language_model")]
    origins = model.config.backbones
    lines = [
        f"parameters loaded: {', '.join(f'{part} {count:,}' for part, count in counts.items())}, "
        f"with blocks before layers {', '.join(model.gated_layers)} of the language model",
        f"frozen: {', '.join(frozen)}, "
        + (f"from {' and '.join(part['name'] for part in origins.values())}" if origins else "from the checkpoint"),
        f"trains: {sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _export(checkpoint: Path, output: Path) -> None:
    if not (checkpoint / "config.json").exists():
        raise UserError(f"{checkpoint} is no folder of a checkpoint: there is no config.json")
    model = FlamingoForConditionalGeneration.from_pretrained(checkpoint)
    weights = openflamingo.export(model, FlamingoProcessor.from_pretrained(checkpoint))
    with atomic_folder(output) as folder, atomic_file(folder / "checkpoint.pt", "wb") as stream:
        torch.save(weights, stream)
    log.info("%d tensors of %s for OpenFlamingo: %s", len(weights), checkpoint, output / "checkpoint.pt")


def _backbones(config: dict[str, Any]) -> tuple[str, str]:
    for key in ("vision", "language"):
        if config[key] is None:
            raise UserError(f"the config needs a value for {key}: the backbone that the checkpoint was trained with")
        from_pretrained(AutoConfig, config[key], key)
    return config["vision"], config["language"]


def _without_backbones(config: dict[str, Any]) -> None:
    for key in ("vision", "language"):
        if config[key] is not None:
            raise UserError(f"{key}={config[key]} is not needed: this checkpoint brings or names its backbones")


@command("convert")
def main(config: DictConfig) -> None:
    run_conversion(plain(config))


if __name__ == "__main__":
    main()
