"""Arguments that a command adds to its own: the names of a sweep's folders, and what a dry run leaves out."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from flamingo.utils.names import file_name

_EXCLUDE_KEYS = "hydra.job.config.override_dirname.exclude_keys"


def sweep_run_name(overrides: str) -> str:
    """Returns the name of a run's folder below that of its sweep; none where it has no overrides of its own."""
    return file_name(overrides) if overrides else ""


def folder_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns arguments by which the folders of a sweep's runs are named after what is swept.

    Keys that the command line fixes are left out: they are the same for all runs. The output is in no name.
    """
    overrides = _overrides(arguments)
    keys = [override.key_or_group for override in overrides]
    if _EXCLUDE_KEYS in keys:
        return []
    fixed = [override.key_or_group for override in overrides if not override.is_sweep_override()]
    left_out = [key for key in dict.fromkeys(["output", *fixed]) if not key.startswith("hydra")]
    quoted = [f"'{key}'" for key in left_out]
    return [f"{_EXCLUDE_KEYS}=[{','.join(quoted)}]"]


def given_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the values that arguments set, by key; None for a key that is swept, or deleted."""
    values = {}
    for override in _overrides(arguments):
        fixed = not override.is_sweep_override() and not override.is_delete()
        values[override.key_or_group] = override.value() if fixed else None
    return values


def dry_run_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns arguments to add to those of a dry run, by which Hydra makes no folder and writes the log to stdout."""
    if given_values(arguments).get("dry_run") is True:
        return ["hydra.run.dir=.", "hydra/job_logging=stdout"]
    return []


def _overrides(arguments: Sequence[str]) -> list[Override]:
    """Returns the arguments that are overrides, without options and without those that Hydra refuses later."""
    overrides = []
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        try:
            overrides.append(OverridesParser.create().parse_override(argument))
        except HydraException:
            continue
    return overrides
