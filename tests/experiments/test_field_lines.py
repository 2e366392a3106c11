"""Every field of every config has a line that explains it, which --help prints."""

import importlib
from dataclasses import dataclass, fields, is_dataclass
from typing import get_type_hints

import pytest

from experiments.cli.command import COMMANDS, CONF
from experiments.cli.field_lines import field_lines, first_line
from experiments.cli.help_page import LONGEST
from experiments.schema import ALL_BUILDERS, ALL_TASKS, DataSetConfig, StreamedSetConfig
from experiments.search import ChoiceConfig, IntervalConfig
from flamingo.data.builders import SAMPLE_BUILDERS
from flamingo.data.streams.streamed_config import StreamedSourceConfig
from flamingo.model.connectors import CONNECTORS
from flamingo.model.fusion import FUSIONS
from flamingo.training.losses import LOSSES
from flamingo.training.optim import OPTIMIZERS

NAMES = [path.stem for path in sorted(CONF.glob("*.yaml")) if path.stem != "run"]


def configs():
    """The config dataclasses of all commands and kinds, and those of their fields."""
    found = {DataSetConfig, StreamedSetConfig, StreamedSourceConfig, ChoiceConfig, IntervalConfig}
    for name in NAMES:
        importlib.import_module(f"experiments.{name}")
        found.add(COMMANDS[name].schema)
    for kinds in (ALL_BUILDERS, SAMPLE_BUILDERS, ALL_TASKS, CONNECTORS, FUSIONS, LOSSES, OPTIMIZERS):
        found |= {config_class for config_class, _ in kinds.values()}
    waiting = list(found)
    while waiting:
        for hint in get_type_hints(waiting.pop()).values():
            if is_dataclass(hint) and hint not in found:
                found.add(hint)
                waiting.append(hint)
    return sorted(found, key=lambda config: f"{config.__module__}.{config.__name__}")


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.__name__)
def test_every_field_of_a_config_has_a_line_that_fits(config):
    lines = field_lines(config)
    hints = get_type_hints(config)
    for field in fields(config):
        is_section = is_dataclass(hints[field.name])
        line = first_line(hints[field.name]) if is_section else lines[field.name]
        assert line, f"{config.__name__}.{field.name} needs a comment '#: ...' above it"
        assert is_section or len(line) <= LONGEST, f"{config.__name__}.{field.name}: {len(line)} > {LONGEST} characters"


def test_configs_of_all_commands_and_kinds_are_walked():
    names = {config.__name__ for config in configs()}
    assert {"TrainConfig", "ModelConfig", "SelfCriticalConfig", "ObjectiveConfig", "CaptioningConfig"} <= names
    assert COMMANDS.keys() >= set(NAMES) and len(names) > 30


@dataclass
class Parent:
    """A config. It has more to say."""

    #: The size of e.g. 3.5 things. Its second sentence
    #: is for readers of the code.
    size: int = 1
    #: The kind.
    kind: str = ""
    bare: int = 0  # not a line


@dataclass
class Child(Parent):
    """A config that inherits a line, and replaces one."""

    kind: str = "child"
    #: Another
    #: size.
    size: int = 2


def test_a_line_is_the_first_sentence_above_and_is_inherited():
    assert field_lines(Parent) == {"size": "The size of e.g. 3.5 things", "kind": "The kind", "bare": ""}
    assert field_lines(Child) == {"size": "Another size", "kind": "The kind", "bare": ""}
    assert first_line(Parent) == "A config"
