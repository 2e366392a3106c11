"""The commands, keys, options, targets and files in the README and docs/ exist."""

import re
import sys

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

import experiments.search  # noqa: F401  # has its schema
from experiments.cli.command import COMMANDS, CONF
from experiments.cli.config_nodes import all_keys
from experiments.cli.extra_arguments import given_values
from experiments.cli.hydra_config import check_command_line
from experiments.setup.reproduction_arguments import reproduction_arguments
from flamingo.utils.errors import UserError
from tests.helpers.configs import CONFIGS, compose_config
from tests.helpers.documented_code import PAGES, PLACEHOLDER, ROOT, CommandLine, command_lines, lines, spans

#: Its examples add the options that they name: tests/test_extending.py runs them.
_EXAMPLES = "docs/extending.md"
#: The block of docs/commands.md with what a wrong command line prints.
_WRONG = "trainig.steps=3"
#: Keys of files that a reader has, and a test has not.
_FILES = ("checkpoint=", "demonstrations=", "images=", "model.init_from", "run=", "runs=")
#: The pages whose command lines are composed in `make test`; those of the others in `make test-all`.
_QUICK = ("README.md", "docs/training.md")
_TESTED = [page for page in PAGES if page != _EXAMPLES]


def own_lines() -> dict[str, list[CommandLine]]:
    """Returns the lines of commands with a config, by page; a line of several pages is the first one's."""
    found: dict[str, list[CommandLine]] = {}
    seen: set[CommandLine] = set()
    for page in _TESTED:
        lines_of_page = [line for line in command_lines(PAGES[page]) if line.name in CONFIGS and line not in seen]
        if lines_of_page:
            found[page] = lines_of_page
            seen.update(lines_of_page)
    return found


_OURS = own_lines()


def problems(line: CommandLine) -> list[str]:
    """Returns what is wrong with a command line of a page."""
    overrides = [override for override in map(without_placeholders, line.overrides) if override]
    if line.name == "evaluate" and not any(override.startswith("task=") for override in overrides):
        overrides.append("task=captions")  # that of the run, which is not there
        overrides += [f"task.{key}=SOME" for key in ("name", "query") if f"task.{key}=" not in " ".join(overrides)]
    if line.name == "reproduce":
        overrides += reproduction_arguments(given_values(overrides))
    try:
        check_command_line(COMMANDS[line.name], overrides, line.is_sweep)
    except UserError as error:
        first, *others = str(error).split("\n- ")
        return [problem for problem in others or [first] if not problem.startswith(_FILES)]
    return []


def without_placeholders(override: str) -> str:
    """Returns an override of a group without the options that a reader fills in; an empty one if none is left."""
    group, _, names = override.partition("=")
    if not (CONF / group.partition("@")[0]).is_dir():
        return override
    options = [name for name in names.split(",") if not PLACEHOLDER.fullmatch(name)]
    return f"{group}={','.join(options)}" if options else ""


@pytest.mark.parametrize(
    "page", [page if page in _QUICK else pytest.param(page, marks=pytest.mark.full) for page in _OURS]
)
def test_each_command_line_composes(page):
    wrong = {line: found for line in _OURS[page] if _WRONG not in line.arguments and (found := problems(line))}
    assert not wrong


def test_the_errors_that_the_commands_page_shows_are_printed():
    [line] = [line for line in _OURS["docs/commands.md"] if _WRONG in line.arguments]
    with pytest.raises(UserError) as caught:
        check_command_line(COMMANDS[line.name], line.overrides)
    [shown] = re.findall(rf"^\$ .*{_WRONG}.*\nerror: (.*?)^```", PAGES["docs/commands.md"], re.MULTILINE | re.DOTALL)
    printed = str(caught.value).splitlines()
    for one_shown, one_printed in zip(shown.splitlines(), printed, strict=True):
        assert one_printed.startswith(one_shown.removesuffix("..."))


@pytest.mark.parametrize("page", PAGES)
def test_each_command_is_there(page):
    names = {line.name for line in command_lines(PAGES[page])}
    assert not [name for name in names - {*CONFIGS} if not is_program(name)]


def is_program(name: str) -> bool:
    """Returns whether a name is that of a package with a program, or of a module of one, such as ``benchmark.NAME``."""
    path = ROOT / "experiments" / name.replace(".", "/")
    return (path / "__main__.py").exists() or ("." in name and path.with_suffix(".py").exists())


@pytest.mark.parametrize("program", ["benchmark", "gpu_check"])
def test_the_options_of_programs_are_known(program, monkeypatch):
    parse = pytest.importorskip(f"experiments.{program}.__main__")._arguments
    found = [line for text in PAGES.values() for line in command_lines(text) if line.name == program]
    for line in found:
        monkeypatch.setattr(sys, "argv", [program, *line.arguments])
        parse()
    assert found


@pytest.mark.full
def test_each_key_with_a_value_is_known():
    known = known_keys()
    for page in _TESTED:
        for token in " ".join(spans(PAGES[page])).split():
            if match := re.match(r"[~+]?([a-z_]+(?:\.(?:[a-z_]+|\*|[A-Z]+))+)=", token):
                pattern = re.sub(r"\\\*|\b[A-Z]+\b", "[^.]+", re.escape(match[1]))
                is_known = token.startswith("hydra.") or any(re.fullmatch(pattern, key) for key in known)
                if token.startswith("+"):  # a new entry of a dictionary
                    is_known = match[1].rpartition(".")[0] in known
                assert is_known, f"{page}: {token}"


def known_keys() -> set[str]:
    """Returns the keys of all commands, with each option of the groups that bring keys."""
    composed = [compose_config(command) for command in CONFIGS]
    commands = {"task": "evaluate", "text": "pretrain_language"}
    groups = ("data", "experiment", "model/adapter", "model/connector", "model/fusion", "optimizer", "task", "text")
    for group in groups:
        for option in sorted((CONF / group).glob("*.yaml")):
            composed.append(compose_config(commands.get(group, "train"), f"{group}={option.stem}"))
    return {key for config in composed for key in all_keys(config)}


@pytest.mark.parametrize("page", _TESTED)
def test_each_option_of_a_group_is_there(page):
    for span in spans(PAGES[page]):
        for token in span.split():
            group, _, names = token.partition("=")
            folder = CONF / group.partition("@")[0]
            if names and folder.is_dir():
                options = [name for name in names.split(",") if not PLACEHOLDER.fullmatch(name)]
                assert all((folder / f"{name}.yaml").exists() or is_of_hydra(group, name) for name in options), token


def is_of_hydra(group: str, name: str) -> bool:
    """Returns whether an option of a group of Hydra is Hydra's own, or that of one of its plugins."""
    Plugins.instance()  # they register their options
    return group.startswith("hydra/") and f"{name}.yaml" in ConfigStore.instance().list(group)


@pytest.mark.parametrize("page", PAGES)
def test_each_make_target_is_there(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for line in lines(PAGES[page]) for target in re.findall(r"^make ([a-z-]+)", line)}
    assert not named - targets


@pytest.mark.parametrize("page", _TESTED)
def test_each_file_that_is_named_is_there(page):
    for line in lines(PAGES[page]):
        for path in re.findall(r"(?<![\w./-])(?:conf|experiments|flamingo|notebooks|tests)/[\w./*-]*", line):
            assert list(ROOT.glob(path.rstrip("/"))), path
