"""Extension points: the ``kind`` that a config names -> its config dataclass, and the class that it configures."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from flamingo.utils.checks import one_of, within
from flamingo.utils.errors import UserError

#: ``kind -> (config dataclass, "module:Class")``. The class is named, not imported: configs need no torch.
Kinds = dict[str, tuple[type, str]]

Config = TypeVar("Config")


def load_config(cls: type[Config], values: Mapping[str, Any], key: str) -> Config:
    """Returns the dataclass ``cls`` with the given values. Whole numbers become floats where the field is a float.

    Args:
        cls: A config dataclass, which checks its values itself.
        values: The values by field name.
        key: The config key that holds the values; errors begin with it.

    Raises:
        UserError: For an unknown key, a missing key, or a value that the dataclass refuses.
    """
    known = fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    for name in values:
        if name not in names:
            raise UserError(f"{key}.{name} is not a key; the keys of {key} are {', '.join(names)}")
    for field in known:
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
            raise UserError(f"{key}.{field.name} needs a value")
    hints = get_type_hints(cls)
    typed = {name: _as_float(value) if hints[name] is float else value for name, value in values.items()}
    with within(key):
        return cls(**typed)


def _as_float(value: Any) -> Any:
    """Returns an int as a float: YAML and the command line write 1 for 1.0."""
    return float(value) if type(value) is int else value


def load_kind(kinds: Kinds, values: Mapping[str, Any], key: str) -> Any:
    """Returns the config dataclass of the kind that ``values`` name under ``kind``.

    Raises:
        UserError: For an unknown kind, with the list of known ones, and for whatever :func:`load_config` refuses.
    """
    one_of(f"{key}.kind", values.get("kind"), kinds)
    config_class, _ = kinds[values["kind"]]
    return load_config(config_class, values, key)


def class_of(kinds: Kinds, kind: str) -> Any:
    """Returns the class of a kind. It is imported by this call."""
    _, location = kinds[kind]
    return import_name(location)


def import_name(location: str) -> Any:
    """Returns the class or function of ``"module:name"``. It is imported by this call."""
    module, _, name = location.partition(":")
    return getattr(import_module(module), name)
