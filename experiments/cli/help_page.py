"""The page of --help: every key of a command with its value, its meaning and its choices."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.cli.config_nodes import is_section, nodes
from experiments.cli.field_lines import field_lines, first_line
from experiments.cli.open_keys import OPEN
from experiments.schema import ALL_BUILDERS, ALL_TASKS
from flamingo.model.connectors import CONNECTORS
from flamingo.model.fusion import FUSIONS
from flamingo.training.losses import LOSSES
from flamingo.training.optim import OPTIMIZERS
from flamingo.utils.errors import ChoiceError
from flamingo.utils.kinds import Kinds

_WIDTH = 120
#: The value of a key that is left open.
CHOSEN = "(chosen)"
#: The column in which explanations begin.
_COLUMN = 36
#: The largest number of characters of an explanation.
LONGEST = _WIDTH - _COLUMN
#: What a group chooses.
GROUP_LINES = {
    "experiment": "A recipe: data, model, optimizer and steps",
    "data": "The documents to train on",
    "web_document": "How the pages of a stream become documents",
    "model/vision": "The vision encoder",
    "model/language": "The language model",
    "model/connector": "What makes visual tokens of vision features",
    "model/adapter": "Layers of peft in a frozen backbone",
    "model/fusion": "How the language model sees visual tokens",
    "loss": "The loss of some documents",
    "optimizer": "The optimizer",
    "parallel": "How several processes share the model",
    "ablation": "A change of experiment=ablation",
    "sweep": "Many runs, with what they have in common",
    "debug": "quick: a few small steps",
    "task": "What the model is asked",
    "protocol": "The prompts and decoding of another project",
    "text": "The texts to train on",
    "hydra/launcher": "Where the runs of a sweep run",
}
#: Sections of which ``kind`` decides the keys. ``*`` is any name.
_KINDS: dict[str, Kinds] = {
    "model.connector": CONNECTORS,
    "model.fusion": FUSIONS,
    "optimizer": OPTIMIZERS,
    "task": ALL_TASKS,
    "data.documents.*": ALL_BUILDERS,
    "data.documents.*.loss": LOSSES,
}


@dataclass
class Row:
    """A key with its value and its explanation."""

    key: str
    value: Any
    line: str = ""
    choices: Sequence[str] = ()

    @property
    def value_text(self) -> str:
        """The value as the page shows it."""
        text = shown(self.value)
        return CHOSEN if text == OPEN else text

    def text(self) -> str:
        """Returns the lines of the page."""
        setting = f"  {self.key}={self.value_text}"
        explanation = self.line
        if any(choice not in explanation for choice in self.choices):
            explanation += f" [{' | '.join(self.choices)}]"
        indent = " " * _COLUMN
        lines = textwrap.wrap(
            explanation, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
        if not lines:
            return setting
        if len(setting) < _COLUMN - 1:
            lines[0] = setting.ljust(_COLUMN) + lines[0].strip()
        else:
            lines.insert(0, setting)
        return "\n".join(lines)


@dataclass
class Section:
    """A section of keys with the same beginning."""

    key: str
    line: str
    rows: list[Row] = field(default_factory=list)

    def text(self) -> str:
        """Returns the lines of the page."""
        heading = textwrap.fill(f"{self.key}: {self.line}" if self.line else self.key, _WIDTH, subsequent_indent="  ")
        return "\n".join([heading, *[row.text() for row in self.rows]])


def help_page(
    config: DictConfig, header: str, groups: Mapping[str, tuple[str | None, Sequence[str]]], sweeps: bool
) -> str:
    """Returns the page of a command.

    Args:
        config: Its composed config, which may lack values.
        header: What the command does.
        groups: For each group the option that is chosen, and all options.
        sweeps: Whether the command has the option ``-m``.
    """
    parts = [header.strip()]
    chosen = Section("Chosen by name", "GROUP=NAME")
    for place, line in GROUP_LINES.items():
        for group, (option, options) in groups.items():
            if group.partition("@")[0] == place:
                chosen.rows.append(Row(group, option, line, options))
    all_sections = [section for section in [chosen, *sections(config, "", set(groups))] if section.rows]
    parts += [section.text() for section in all_sections]
    notes = []
    if len(all_sections) > 1:
        notes.append("A key of a section is given with it: training.steps=100.")
    if sweeps:
        notes.append("-m KEY=A,B runs every combination of the values, each in a folder of its own.")
    if any(row.value_text == CHOSEN for section in all_sections for row in section.rows):
        notes.append(f"{CHOSEN}: chosen from the data, the backbones and the device, and logged.")
    notes.append("--cfg job prints the config as YAML; --config-dir FOLDER adds options: FOLDER/GROUP/NAME.yaml.")
    return "\n\n".join([*parts, "\n".join(notes)])


def sections(node: DictConfig, key: str, groups: set[str], line: str = "") -> Iterator[Section]:
    """Yields the section of a node of a config, then those of the nodes below it.

    Args:
        node: The node.
        key: Its full key; empty for the whole config.
        groups: The groups of options.
        line: The explanation of a node without a dataclass.
    """
    config_class = class_at(node, key)
    group = key.replace(".", "/")
    if config_class is not None and key:
        line = first_line(config_class)
    section = Section(f"{key}, by {group}=NAME" if group in groups else key or "General", line)
    lines = field_lines(config_class) if config_class else {}
    below = []
    for name, child in nodes(node):
        if is_section(child):
            below.append((f"{key}.{name}".lstrip("."), child, lines.get(name, "")))
        elif not _is_chosen_by_name(name, child, group, groups):
            choices = choices_of(config_class, node, name, key) if config_class else []
            section.rows.append(Row(name, child, lines.get(name, ""), choices))
    yield section
    for child_key, child, child_line in below:
        yield from sections(child, child_key, groups, child_line)


def _is_chosen_by_name(name: str, child: Any, group: str, groups: set[str]) -> bool:
    """Returns whether a group sets a key: the kind of a section, or a missing section."""
    if name == "kind":
        return group in groups
    return isinstance(child, DictConfig) and f"{group}/{name}".lstrip("/") in groups


def class_at(node: DictConfig, key: str) -> type | None:
    """Returns the dataclass of a node of a config: its type, or the one of its kind."""
    kinds = _kinds_at(key)
    if kinds is not None and (kind := node.get("kind")) in kinds:
        return kinds[kind][0]
    node_type = OmegaConf.get_type(node)
    return node_type if is_dataclass(node_type) else None


def _kinds_at(key: str) -> Kinds | None:
    names = key.split(".")
    for pattern, kinds in _KINDS.items():
        places = pattern.split(".")
        if len(places) == len(names) and all(a in ("*", b) for a, b in zip(places, names, strict=True)):
            return kinds
    return None


def choices_of(config_class: type, node: DictConfig, name: str, key: str) -> list[str]:
    """Returns the choices of a key: those that its dataclass lists when it refuses a wrong value."""
    kinds = _kinds_at(key)
    if name == "kind" and kinds is not None:
        return list(kinds)
    hints = get_type_hints(config_class)
    impossible = "\0"
    several = get_origin(hints[name]) is list
    if str not in (hints[name], *get_args(hints[name])):
        return []
    values = {other.name: _placeholder(hints[other.name]) for other in fields(config_class)}
    values |= {str(other): node[other] for other in node if _is_plain(node, str(other))}
    try:
        config_class(**values | {name: [impossible] if several else impossible})
    except ChoiceError as error:
        return [str(choice) for choice in error.choices] if error.key == name else []
    except Exception:  # a check of another key that needs what is missing here
        return []
    return []


def _is_plain(node: DictConfig, name: str) -> bool:
    """Returns whether a key has a value that is neither missing nor a section."""
    return (
        not OmegaConf.is_missing(node, name)
        and not OmegaConf.is_interpolation(node, name)
        and not isinstance(node[name], DictConfig)
    )


def _placeholder(hint: Any) -> Any:
    """Returns a value of a type that most checks accept."""
    plain = get_origin(hint) or hint
    return plain() if plain in (list, dict, str) else 1 if plain in (int, float) else None


def shown(node: Any) -> str:
    """Returns a value as written on a command line."""
    value = node._value() if isinstance(node, ListConfig | DictConfig) or hasattr(node, "_value") else node
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(shown(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{shown(item)}" for name, item in value.items()) + "}"
    return f"'{value}'" if " " in str(value) else str(value)
