"""The nodes of a composed config, including those without a value."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig


def nodes(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yields the names and nodes below a node. Missing and interpolated values stay unresolved."""
    for name in config.keys():  # noqa: SIM118  # without it, missing values are left out
        yield str(name), config._get_node(name)


def is_section(node: Any) -> bool:
    """Returns whether a node has nodes below it."""
    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()


def all_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yields every full key of a config, sections included. Keys of Hydra are left out."""
    for name, node in nodes(config):
        if not prefix and name == "hydra":
            continue
        yield f"{prefix}{name}"
        if is_section(node):
            yield from all_keys(node, f"{prefix}{name}.")


def missing_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yields the keys of mandatory values that are missing."""
    for name, node in nodes(config):
        if node._is_missing():
            yield f"{prefix}{name}"
        elif is_section(node):
            yield from missing_keys(node, f"{prefix}{name}.")
