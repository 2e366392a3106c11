"""protocol=NAME: the evaluation of another project, as values of the config's keys for each kind of task.

The command line wins over the protocol, and the protocol over the YAML files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.setup.init_from import command_line_keys
from flamingo.utils.errors import UserError


def take_from_protocol(config: DictConfig, overrides: Sequence[str]) -> None:
    """Sets the values that the protocol decides: those of all tasks, of the task's kind, and of the task by its name.

    Args:
        config: The composed config. It is changed if it is that of an evaluation with a protocol.
        overrides: The overrides of the command line, whose values stay.

    Raises:
        UserError: If the protocol does not have the task's kind.
    """
    protocol = OmegaConf.select(config, "protocol")
    if not protocol or OmegaConf.is_missing(config, "task"):
        return
    kind = config.task.kind
    sections: Any = OmegaConf.to_container(protocol, resolve=True)
    if kind not in sections["kinds"]:
        known = ", ".join(sections["kinds"])
        raise UserError(f"protocol={sections['name']} has tasks of the kinds {known}, and task.kind is {kind}")
    chosen = command_line_keys(overrides)
    of_task = sections["tasks"].get(OmegaConf.select(config, "task.name"), {})
    for section in (sections["all"], sections["kinds"][kind], of_task):
        for key, value in _values(section):
            if key not in chosen:
                OmegaConf.update(config, key, value)


def _values(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the keys of a section with their values. The keys of the task are below ``task``."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            for name, below in value.items():
                yield f"{key}.{name}", below
        else:
            yield key, value
