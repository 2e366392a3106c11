"""model.init_from: the checkpoint that a training starts from, and the config keys whose values it sets.

The command line wins over the checkpoint, and the checkpoint over the YAML files. A key that the command line must not
change is refused here, or in :mod:`experiments.setup.build_from_checkpoint` if that depends on the weights.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from experiments.schema import CHECKPOINT, JSON
from experiments.setup.init_from_parts import FREE, SECTIONS, checkpoint_folder
from flamingo.data.caption_template import CaptionTemplate
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds, load_config, load_kind
from flamingo.utils.reading import json_object

log = logging.getLogger(__name__)

#: Groups whose option on a command line sets this key. The other values of the option count as those of YAML.
_KEYS_OF_GROUPS = {
    "model/vision": "model.vision",
    "model/language": "model.language",
    "model/connector": "model.connector.kind",
    "model/fusion": "model.fusion.kind",
    "model/adapter": "model.adapter.kind",
}


def take_from_checkpoint(config: DictConfig, overrides: Sequence[str]) -> None:
    """Sets the values that the checkpoint of ``model.init_from`` decides, and logs the values that it replaces.

    Args:
        config: The composed config. It is changed if it is that of a training with ``init_from``.
        overrides: The overrides of the command line, whose values stay.

    Raises:
        UserError: With the key, for a value of the command line that does not fit the weights.
    """
    init_from = OmegaConf.select(config, "model.init_from")
    if init_from is None:
        return
    folder = checkpoint_folder(init_from)
    saved = _read(folder / "config.json")
    if saved.get("model_type") != "flamingo":
        raise UserError(
            f"model.init_from: {folder} holds a {saved.get('model_type')}, not a flamingo: convert it first"
        )
    chosen = command_line_keys(overrides)
    replaced: list[str] = []
    for name, kinds in SECTIONS.items():
        values = _section(config, name, saved[name], kinds, chosen, replaced)
        key = f"model.{name}"
        section = load_config(VisionFeaturesConfig, values, key) if kinds is None else load_kind(kinds, values, key)
        config.model[name] = OmegaConf.structured(section)
    _take_adapter(config, saved.get("adapter"), chosen, replaced)
    processor = _read(folder / "processor_config.json")
    decided: JSON = {
        "model.vision": CHECKPOINT,
        "model.language": CHECKPOINT,
        "model.aspect": processor.get("aspect", "as_is"),
        "model.caption_template": processor.get("caption_template", CaptionTemplate().text),
        "model.image_size": _side(processor.get("image_processor", {})),
    }
    if saved.get("backbones_included", True):  # they may differ from the ones they were loaded from
        decided["include_backbones"] = True
    for key, value in decided.items():
        _decide(config, key, value, chosen, replaced)
    for line in replaced:
        log.info("%s", line)


def command_line_keys(overrides: Sequence[str]) -> set[str]:
    """Returns the keys of a config that overrides set, those of a mapping's values included."""
    keys: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in _KEYS_OF_GROUPS:
            keys.add(_KEYS_OF_GROUPS[key])
        elif not override.is_delete():
            keys.update(_leaves(key, _value(override)))
    return keys


def _value(override: Override) -> Any:
    # The parser has types of its own for texts in quotes, but plain dicts for mappings.
    return None if override.is_sweep_override() else override.value()


def _leaves(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping) or not value:
        return [key]
    leaves = []
    for name, below in value.items():
        leaves += _leaves(f"{key}.{name}", below)
    return leaves


def _section(
    config: DictConfig, name: str, saved: JSON, kinds: Kinds | None, chosen: set[str], replaced: list[str]
) -> JSON:
    """Returns the values of a section: those of the checkpoint, except overridden and free ones.

    Raises:
        UserError: For a kind or a key that the checkpoint does not have.
    """
    composed: Any = OmegaConf.to_container(config.model[name], resolve=True)
    prefix = f"model.{name}"
    kind, saved_kind = composed.get("kind"), saved.get("kind")
    if f"{prefix}.kind" in chosen and kind != saved_kind:
        raise UserError(f"{prefix}.kind is {kind}, but the checkpoint of model.init_from has {saved_kind}")
    for key in sorted(chosen):
        field = key.removeprefix(f"{prefix}.")
        if field != key and field not in saved:
            raise UserError(f"{key} is not a key of the checkpoint of model.init_from, whose {name} is {saved_kind}")
    values = dict(saved)
    for field, value in composed.items():
        key = f"{prefix}.{field}"
        is_free = field in FREE and kind == saved_kind
        if key in chosen or is_free:
            values[field] = value
        elif field in saved and value != saved[field]:
            replaced.append(_replacement(key, saved[field], value))
    return values


def _take_adapter(config: DictConfig, saved: JSON | None, chosen: set[str], replaced: list[str]) -> None:
    """Sets the adapter of the checkpoint. The config's adapter stays if the checkpoint has none.

    Raises:
        UserError: If the command line chooses an adapter and the checkpoint has another one.
    """
    adapter = config.model.adapter
    composed = None if adapter is None else OmegaConf.to_container(adapter, resolve=True)
    if saved is None or composed == saved:
        return
    if any(key.startswith("model.adapter") for key in chosen):
        raise UserError(
            f"model.adapter cannot be chosen: the checkpoint of model.init_from has an adapter, {saved['kind']} in the "
            f"{saved['part']}, which can only train on or be merged first"
        )
    replaced.append(_replacement("model.adapter", saved, composed))
    config.model.adapter = OmegaConf.structured(load_config(AdapterConfig, saved, "model.adapter"))


def _decide(config: DictConfig, key: str, value: Any, chosen: set[str], replaced: list[str]) -> None:
    parent, _, name = key.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    is_missing = OmegaConf.is_missing(section, name)
    composed = None if is_missing else section[name]
    if key in chosen and not is_missing:
        return
    if not is_missing and composed != value:
        replaced.append(_replacement(key, value, composed))
    section[name] = value


def _replacement(key: str, value: Any, composed: Any) -> str:
    return f"{key} is {value}, from the checkpoint of model.init_from, in the place of {composed}"


def _side(image_processor: JSON) -> int | None:
    """Returns the side in pixels of the images of an image processor; None if they are not square."""
    size = image_processor.get("crop_size") if image_processor.get("do_center_crop") else image_processor.get("size")
    if not isinstance(size, dict) or size.get("height") != size.get("width"):
        return None
    return size.get("height")


def _read(file: Path) -> JSON:
    try:
        return json_object(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"model.init_from: {file} cannot be read: {error.strerror}") from error
