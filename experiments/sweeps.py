"""The folders of a sweep's runs: named for what differs among them, without paths that are the same for all."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from flamingo.utils.names import file_name


def run_folder(overrides: str) -> str:
    """Return the name of a run's folder below that of its sweep; none where it has no overrides of its own."""
    return file_name(overrides) if overrides else ""


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)

_EXCLUDE_KEYS = "hydra.job.config.override_dirname.exclude_keys"


def folder_arguments(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return arguments to add to a command's own, which say what the names of a sweep's folders leave out.

    They leave out what ``conf/run.yaml`` lists, unless it is swept, and every path that is not swept: data may be
    moved, and a sweep that was stopped continues.
    """
    overrides = [override for argument in arguments for override in _parsed(argument)]
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    if _EXCLUDE_KEYS in {override.key_or_group for override in overrides}:
        return []
    run = yaml.safe_load((conf / "run.yaml").read_text(encoding="utf-8"))
    listed = run["hydra"]["job"]["config"]["override_dirname"]["exclude_keys"]
    paths = [override.key_or_group for override in overrides if _names_path(override)]
    left_out = [key for key in dict.fromkeys([*listed, *paths]) if key not in swept or key == "output"]
    return [f"{_EXCLUDE_KEYS}=[{','.join(left_out)}]"] if left_out != listed else []


def _parsed(argument: str) -> list[Override]:
    """The argument as an override; nothing for an option, and for what Hydra is going to refuse."""
    if argument.startswith("-") or "=" not in argument:
        return []
    try:
        return [OverridesParser.create().parse_override(argument)]
    except HydraException:
        return []


def _names_path(override: Override) -> bool:
    if override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return False
    return "/" in override.get_value_element_as_str()
