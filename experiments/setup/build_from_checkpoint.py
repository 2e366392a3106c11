"""The model and processor of model.init_from, with the changes of the command line."""

import logging
from dataclasses import fields
from textwrap import shorten

from experiments.schema import CHECKPOINT, ModelConfig
from experiments.setup.init_from_parts import FREE, SECTIONS, checkpoint_folder
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.transforms.image_processors import resize
from flamingo.model import Fields
from flamingo.model.checkpoints import LOADERS, NAME_ARGUMENTS
from flamingo.model.config import FlamingoConfig
from flamingo.model.fingerprints import fingerprint
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

log = logging.getLogger(__name__)

#: The largest number of characters of a reason, which may list all weights of a model.
_REASON = 400


def begin_with_checkpoint(
    config: ModelConfig, names: dict[str, str], dtype: str, text_kwargs: Fields
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of ``config.init_from``, on the device of this process, and its processor.

    Args:
        config: The model. It differs from the checkpoint in values of the command line only.
        names: The backbones ``vision`` and ``language`` of the command line. The checkpoint must have the same weights.
        dtype: The dtype of the backbones; auto: as they were saved.
        text_kwargs: Arguments of :func:`flamingo.model.language.load_text_model`. A checkpoint that contains its
            backbones is loaded whole.

    Raises:
        UserError: With the keys that do not fit the weights.
    """
    assert config.init_from is not None
    folder = checkpoint_folder(config.init_from)
    wanted = from_pretrained(FlamingoConfig, folder, "model.init_from")
    changed = _changed(config, wanted)
    for section in SECTIONS:
        setattr(wanted, section, getattr(config, section))
    replaced = {}
    loading: Fields = {}
    if not wanted.backbones_included:
        replaced = {NAME_ARGUMENTS[part]: name for part, name in _named(names).items()}
        loading = {"text_kwargs": text_kwargs}
    elif text_kwargs:
        log.warning("%s contains its backbones, so every process loads it whole before it is sharded", folder)
    try:
        model = FlamingoForConditionalGeneration.from_pretrained(
            folder, config=wanted, dtype=dtype, check=False, **replaced, **loading
        )
        model.place(processes().device)
        model.begin_checks(True)
    except UserError as error:
        keys = ", ".join(changed) or "model.init_from"
        if replaced and not changed:
            keys = ", ".join(f"model.{key}" for key in names)
        raise UserError(f"{keys}: the checkpoint {folder} does not fit: {shorten(str(error), _REASON)}") from error
    if wanted.backbones_included:
        _check_backbones(model, names, dtype)
    processor = FlamingoProcessor.from_pretrained(folder)
    processor.aspect = config.aspect
    processor.caption_template, processor.template = config.caption_template, CaptionTemplate(config.caption_template)
    if config.image_size is not None:
        resize(processor.image_processor, config.image_size)
    processor.limit_length(model.config.text_config)
    return model, processor


def _changed(config: ModelConfig, saved: FlamingoConfig) -> list[str]:
    """Returns the keys that differ from the checkpoint, as ``KEY=VALUE (VALUE in the checkpoint)``."""
    changed = []
    for section in SECTIONS:
        now, before = getattr(config, section), getattr(saved, section)
        for field in fields(now):
            value, old = getattr(now, field.name), getattr(before, field.name, None)
            if field.name not in FREE and value != old:
                changed.append(f"model.{section}.{field.name}={value} ({old} in the checkpoint)")
    return changed


def _named(names: dict[str, str]) -> dict[str, str]:
    """Returns the names of the backbones by the parts of a model."""
    parts = {"vision": "vision_model", "language": "language_model"}
    return {parts[key]: name for key, name in names.items() if name != CHECKPOINT}


def _check_backbones(model: FlamingoForConditionalGeneration, names: dict[str, str], dtype: str) -> None:
    for part, name in _named(names).items():
        other = LOADERS[part](name, dtype=dtype)
        if fingerprint(other) != fingerprint(getattr(model, part)):
            key = "vision" if part == "vision_model" else "language"
            raise UserError(f"model.{key}: the {part} of the checkpoint of model.init_from is not that of {name}")
