"""Finds all wrong keys and values of a command line together, before anything heavy is imported."""

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.cli.command import Command
from experiments.cli.config_nodes import all_keys, is_section
from experiments.cli.nearest_key import nearest, nearest_keys
from flamingo.utils.errors import UserError
from flamingo.utils.problems import Problems

#: Returns the problems of the values of a composed config, given its overrides.
FindProblems = Callable[[DictConfig, Sequence[str]], list[str]]
#: Names of types in messages of OmegaConf -> names for a user.
_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "valid bool": "true or false"}
#: Keys without which others may contradict each other, or be needed: a checkpoint decides other keys, and a run is its
#: own checkpoint.
_DECIDE_OTHERS = ("model.init_from", "run", "runs", "checkpoint")
#: The extras of the package that add options to a group.
_EXTRAS = {"hydra/launcher": "sweeps"}


class CommandLine:
    """The overrides of a command line, which are tried one by one. Hydra must be initialised.

    Args:
        command: The command.
        texts: The overrides as text.
        is_sweep: Whether ``-m`` is among the options.
    """

    def __init__(self, command: Command, texts: Sequence[str], is_sweep: bool) -> None:
        self.command, self.is_sweep = command, is_sweep
        self.problems = Problems()
        self._loader = GlobalHydra.instance().config_loader()
        #: The overrides, with the first value of a key that is swept; and those of its other values.
        self.overrides: list[Override] = []
        self.swept: list[Override] = []
        for text in texts:
            with self.problems.collected():
                first, *others = self._parsed(text)
                self.overrides.append(first)
                self.swept += others
        self.values = [override for override in self.overrides if not self._is_group(override)]
        #: The overrides that choose an option of a group, and the config with these options.
        self.groups: list[Override] = []
        self.base = self._composed()

    def check(self, problems_of: FindProblems) -> None:
        """Checks all overrides.

        Args:
            problems_of: Finds the problems of a composed config.

        Raises:
            UserError: With all problems, each with its key and the values that it may have.
        """

        def problems_with(values: Sequence[Override]) -> list[str]:
            return problems_of(with_values(self.base, values), _texts([*self.groups, *values]))

        known = self._known_values()
        found: list[str] = []
        described: list[str] = []
        while left := [problem for problem in problems_with(known) if problem not in found]:
            for problem in left:
                found.append(problem)
                culprit = _culprit(problem, known, problems_with)
                if culprit is not None and not _is_named(culprit, problem):
                    problem = f"{culprit.input_line}: {problem}"
                described.append(problem)
                if culprit is not None and culprit.key_or_group not in _DECIDE_OTHERS:
                    known = [override for override in known if override is not culprit]
        for override in self.swept:
            if not self._is_group(override):
                with self.problems.collected():
                    self._apply(override, deepcopy(self.base))
                    described += problems_with([*known, override])
        self.problems.sentences += dict.fromkeys(described)
        self.problems.report()

    def config(self) -> DictConfig:
        """Returns the config with all values.

        Raises:
            UserError: For unknown keys.
        """
        known = self._known_values()
        self.problems.report()
        return with_values(self.base, known)

    def options(self) -> dict[str, tuple[str | None, list[str]]]:
        """Returns for each group of the command the option that is chosen, and all options."""
        choices = self.base.hydra.runtime.choices
        return {
            group: (choices[group], self._options(group.partition("@")[0]))
            for group in choices
            if not group.startswith("hydra/")
        }

    def _parsed(self, text: str) -> list[Override]:
        """Returns the overrides of a text: one, or one for each value that is swept.

        Raises:
            UserError: For a text that is not ``KEY=VALUE``.
        """
        parser = OverridesParser.create(config_loader=self._loader)
        try:
            [override] = parser.parse_overrides([text])
        except HydraException as error:
            raise UserError(f"{text} cannot be read as KEY=VALUE: {_first_line(error)}") from error
        if not override.is_sweep_override():
            return [override]
        key = override.get_key_element()
        if not self.is_sweep:
            values = text.partition("=")[2]
            for_each = "; -m runs each value" if self.command.sweeps else ""
            self.problems.sentences.append(f"{text} has several values: {key}=[{values}] is a list{for_each}")
        return [parser.parse_override(f"{key}={value}") for value in override.sweep_string_iterator()]

    def _is_group(self, override: Override) -> bool:
        group = override.key_or_group
        return "." not in group and bool(self._options(group))

    def _options(self, group: str) -> list[str]:
        options = self._loader.get_group_options(group, ObjectType.CONFIG)
        return [option for option in options if not option.endswith("_schema")]

    def _composed(self) -> DictConfig:
        """Returns the config with the options that exist."""
        groups = []
        for override in self.overrides + self.swept:
            if self._is_group(override):
                with self.problems.collected():
                    self._check_option(override)
                    groups.append(override)
        self.groups = [override for override in groups if override not in self.swept]
        try:
            return compose(self.command.name, _texts(self.groups), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):
            return self._composed_one_by_one()

    def _composed_one_by_one(self) -> DictConfig:
        groups, self.groups = self.groups, []
        base = compose(self.command.name, return_hydra_config=True)
        for group in groups:
            try:
                base = compose(self.command.name, _texts([*self.groups, group]), return_hydra_config=True)
                self.groups.append(group)
            except (HydraException, OmegaConfBaseException) as error:
                near = nearest_keys(group.key_or_group, list(base.hydra.runtime.choices))
                self.problems.sentences.append(f"{group.input_line}: {_first_line(error).removesuffix('.')}{near}")
        return base

    def _check_option(self, override: Override) -> None:
        if override.is_delete():
            return
        options = self._options(override.key_or_group)
        value = override.value()
        if value is None:
            raise UserError(f"{override.key_or_group}=null is no option: say ~{override.key_or_group} for none")
        for name in value if isinstance(value, list) else [value]:
            if name not in options:
                extra = _EXTRAS.get(override.key_or_group)
                fix = f"; pip install 'flamingo[{extra}]' brings more" if extra else ""
                near = nearest(str(name), options) or "."
                raise UserError(
                    f"{override.key_or_group}={name} does not exist{near} The options: {', '.join(options)}{fix}"
                )

    def _known_values(self) -> list[Override]:
        """Returns the overrides whose keys are known and whose values have the right type."""
        known = []
        config = deepcopy(self.base)
        for override in self.values:
            with self.problems.collected():
                self._apply(override, config)
                known.append(override)
        return known

    def _apply(self, override: Override, config: DictConfig) -> None:
        """Changes a config.

        Raises:
            UserError: For an unknown key, and for a value of another type.
        """
        key, value = override.key_or_group, override.get_value_element_as_str()
        unknown = _unknown_in(key, config)
        if unknown is not None:
            near = nearest_keys(key, [*all_keys(self.base), *self.options()])
            if is_dataclass(OmegaConf.get_type(unknown)):
                raise UserError(f"{key} is not a key{near}")
            if not (override.is_add() or override.is_force_add()):
                raise UserError(f"{key} is not a key{near}; +{key}={value} adds it")
        section = OmegaConf.select(config, key)
        if isinstance(section, DictConfig) and not isinstance(override.value(), dict | None):
            raise UserError(self._section_problem(key, value, section))
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], config)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_type_problem(key, value, error)) from error

    def _section_problem(self, key: str, value: str, section: DictConfig) -> str:
        """Returns a sentence that tells what to write instead of ``SECTION=VALUE``."""
        group = key.replace(".", "/")
        if options := self._options(group):
            near = nearest(value, options) or "."
            return f"{key} is a section: say {group}=NAME{near} The names: {', '.join(options)}"
        return f"{key} is a section: give its keys, such as {key}.{next(all_keys(section), 'KEY')}"


def _culprit(
    problem: str, overrides: Sequence[Override], problems_with: Callable[[Sequence[Override]], list[str]]
) -> Override | None:
    """Returns the override that causes a problem: without it the problem disappears. None if no single one does.

    Overrides whose keys the problem names are tried first. A mandatory key is no cause: without it its section is not
    checked.
    """
    for override in sorted(overrides, key=lambda override: not _is_named(override, problem)):
        left = problems_with([other for other in overrides if other is not override])
        if problem not in left and not _needs(override, left):
            return override
    return None


def _needs(override: Override, problems: Sequence[str]) -> bool:
    """Returns whether one of the problems is that the key of an override has no value."""
    return any(problem.startswith(f"{override.key_or_group} needs a value") for problem in problems)


def with_values(base: DictConfig, overrides: Sequence[Override]) -> DictConfig:
    """Returns a copy of a composed config with other values."""
    config = deepcopy(base)
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)
    with open_dict(config):
        del config["hydra"]
    return config


def _is_named(override: Override, problem: str) -> bool:
    return re.search(rf"(^|[^.\w]){re.escape(override.key_or_group)}\b", problem) is not None


def _texts(overrides: Sequence[Override]) -> list[str]:
    return [str(override.input_line) for override in overrides]


def _unknown_in(key: str, config: DictConfig) -> DictConfig | None:
    """Returns the section in which a part of the key is unknown; None for a known key."""
    node: Any = config
    for name in key.split("."):
        if not is_section(node):
            return None
        if name not in node.keys():  # noqa: SIM118  # `in` is False for missing values
            return node
        node = node._get_node(name)
    return None


def _type_problem(key: str, value: str, error: Exception) -> str:
    """Returns a sentence for a value that does not fit the type of its key."""
    message = _first_line(error.__cause__ or error)
    for name, title in _TYPES.items():
        if f"could not be converted to {name}" in message or f"is not a {name}" in message:
            return f"{key} must be {title}, got {value}"
    if "is not a ListConfig" in message:
        return f"{key} must be a list, such as {key}=[{value}]"
    if "is not in struct" in message:
        return f"{key} has no such key: +{key}.NAME=VALUE adds one"
    return f"{key}={value}: {message}"


def _first_line(error: BaseException) -> str:
    """Returns the first line of an error of Hydra or OmegaConf, which says what is wrong."""
    return str(error).strip().split("\n")[0]
