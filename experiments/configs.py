"""The plain dataclasses of `flamingo` as Hydra's structured configs, and back."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from flamingo.utils.checks import within
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_kind


def schema(cls: type) -> Any:
    """A dataclass with the fields of ``cls`` for OmegaConf to check types by.

    OmegaConf knows no Literal, so choices become strings here; ``cls`` checks them itself when it is made by
    :func:`build`. Fields without a default become mandatory values.
    """
    hints = get_type_hints(cls)
    converted = []
    for f in fields(cls):
        if f.default is not NO_DEFAULT:
            value = field(default=f.default)
        elif f.default_factory is not NO_DEFAULT:
            value = field(default_factory=f.default_factory)
        else:
            value = field(default=MISSING)
        converted.append((f.name, str if get_origin(hints[f.name]) is Literal else hints[f.name], value))
    return make_dataclass(f"{cls.__name__}Schema", converted)


def nested(cls: type) -> Any:
    """A field of a structured config that holds the :func:`schema` of ``cls``."""
    return field(default_factory=schema(cls), metadata={"dataclass": cls})


def plain(config: DictConfig) -> dict[str, Any]:
    """Everything resolved, as dictionaries and lists. Raises UserError naming a mandatory value that is missing."""
    # At the top first: others may refer to these, and then cannot be looked at.
    missing = [str(key) for key in config if OmegaConf.is_missing(config, str(key))] or OmegaConf.missing_keys(config)
    if missing:
        raise UserError(f"the config needs a value for {', '.join(sorted(missing))}")
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def build(cls: Callable[..., Any], values: dict[str, Any], key: str = "") -> Any:
    """``cls`` of the values under ``key`` of a config. Errors name the full key of the value."""
    assert is_dataclass(cls)
    hints = get_type_hints(cls)
    # YAML knows lists only.
    values = {k: tuple(v) if get_origin(hints.get(k)) is tuple else v for k, v in values.items()}
    with within(key) if key else nullcontext():
        return cls(**values)


def check(cls: type, values: dict[str, Any], key: str = "") -> None:
    """Check the ranges of all values of a config, those of the dataclasses within ``cls`` included.

    Raises UserError with the full key of the value.
    """
    hints = get_type_hints(cls)
    for f in fields(cls):
        part, name = f.metadata.get("dataclass", hints[f.name]), f"{key}.{f.name}".lstrip(".")
        if "kinds" in f.metadata:
            load_kind(f.metadata["kinds"], values[f.name], name)
        elif is_dataclass(part):
            check(part, values[f.name], name)
        elif get_origin(part) is dict and is_dataclass(get_args(part)[1]):
            for own, value in values[f.name].items():
                check(get_args(part)[1], value, f"{name}.{own}")
    build(cls, values, key)
