"""Composes configs with Hydra, and runs commands with it."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from experiments.cli.command import COMMANDS, CONF, Command, Job, termination
from experiments.cli.command_line import CommandLine
from experiments.cli.config_nodes import missing_keys, nodes
from experiments.cli.extra_arguments import dry_run_arguments, folder_arguments, given_values, sweep_run_name
from experiments.cli.field_lines import field_lines
from experiments.cli.help_page import help_page
from experiments.cli.open_keys import with_stand_ins
from experiments.cli.submitit_job import join_tasks, requeue_after
from experiments.schema import ALL_TASKS, Entry
from experiments.setup.default_task import default_task
from experiments.setup.init_from import take_from_checkpoint
from experiments.setup.protocols import take_from_protocol
from experiments.setup.reproduction_arguments import reproduction_arguments
from flamingo.model.connectors import CONNECTORS
from flamingo.model.fusion import FUSIONS
from flamingo.training.optim import OPTIMIZERS
from flamingo.utils.ancestors import end_with
from flamingo.utils.checks import within
from flamingo.utils.errors import FailedElsewhereError, UserError
from flamingo.utils.io import USER_ERRNOS, check_writable, sentence_of
from flamingo.utils.kinds import Kinds, import_name
from flamingo.utils.lost_process import lost_process_explained
from flamingo.utils.problems import Problems
from flamingo.utils.process_group import leave_at_exit
from flamingo.utils.torchrun import started_by_torchrun


def register_schemas() -> None:
    """Registers the dataclasses of the commands as ``NAME_schema``, and those of the kinds, for ``conf/``."""
    for name, command in COMMANDS.items():
        ConfigStore.instance().store(f"{name}_schema", command.schema)
    _register_kinds(CONNECTORS, "model/connector", "model.connector")
    _register_kinds(FUSIONS, "model/fusion", "model.fusion")
    _register_kinds(OPTIMIZERS, "optimizer", "optimizer")
    _register_kinds(ALL_TASKS, "task", "task")


def _register_kinds(kinds: Kinds, group: str, package: str) -> None:
    """Registers the config dataclass of each kind as ``KIND_schema``, for the options of a group."""
    for kind, (config_class, _) in kinds.items():
        ConfigStore.instance().store(f"{kind}_schema", config_class, group=group, package=package)


def compose_config(name: str, overrides: Sequence[str] = (), values: Mapping[str, Entry] | None = None) -> DictConfig:
    """Returns the config of a command, as Hydra composes it.

    Args:
        name: The name of the command.
        overrides: The overrides, as on a command line.
        values: Keys that are set in the composed config.
    """
    register_schemas()
    # Within a command Hydra is initialised; in a program that calls this function it is not.
    is_initialised = GlobalHydra.instance().is_initialized()
    with nullcontext() if is_initialised else initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    config.merge_with(values or {})
    return config


def load(config: DictConfig, overrides: Sequence[str] = ()) -> Any:
    """Returns a composed config as its dataclass, with all values resolved.

    Args:
        config: The composed config.
        overrides: The overrides of the command line. They win over the checkpoint of ``model.init_from`` and
            over the protocol.

    Raises:
        UserError: With the full keys, for missing values and for values that a dataclass refuses.
    """
    take_from_checkpoint(config, overrides)
    take_from_protocol(config, overrides)
    config = with_stand_ins(config)
    problems = Problems()
    problems.sentences += _missing_values(config)
    _check_sections(config, "", problems)
    problems.report()
    return OmegaConf.to_object(config)


def _missing_values(config: DictConfig) -> Iterator[str]:
    """Yields a sentence for each mandatory value that is missing, with the line of its key."""
    for key in missing_keys(config):
        section, _, name = key.rpartition(".")
        config_class = OmegaConf.get_type(OmegaConf.select(config, section) if section else config)
        line = field_lines(config_class).get(name) if is_dataclass(config_class) else None
        yield f"{key} needs a value: {line}" if line else f"{key} needs a value"


def _check_sections(config: DictConfig, key: str, problems: Problems) -> None:
    """Makes the dataclass of each section whose values are complete, and collects their errors with full keys."""
    for name, section in nodes(config):
        if not isinstance(section, DictConfig) or not is_dataclass(OmegaConf.get_type(section)):
            continue
        found = len(problems.sentences)
        full_key = f"{key}.{name}".lstrip(".")
        _check_sections(section, full_key, problems)
        if len(problems.sentences) == found and not list(missing_keys(section)):
            # A value may refer to a missing one in another section.
            with problems.collected(), suppress(InterpolationToMissingValueError), within(full_key):
                OmegaConf.to_object(section)


def problems_of(command: Command, config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Returns the problems of the values of a command's config.

    The values are checked together if each of them is right.

    Args:
        command: The command.
        config: The composed config, which is changed.
        overrides: The overrides of the config.
    """
    problems = Problems()
    with problems.collected():
        take_from_checkpoint(config, overrides)
    with problems.collected():
        take_from_protocol(config, overrides)
    with problems.collected():
        config = with_stand_ins(config)
    problems.sentences += _missing_values(config)
    _check_sections(config, "", problems)
    with problems.collected():
        _check_output(config)
    if not problems.sentences:
        with problems.collected():
            command.check(OmegaConf.to_object(config))
    return problems.sentences


def _check_output(config: DictConfig) -> None:
    """Raise UserError where nothing can be written at the config's ``output``, if it has a value."""
    if "output" in config and not OmegaConf.is_missing(config, "output") and config.output is not None:
        check_writable("output", Path(config.output))


def run_command(command: Command) -> None:
    """Runs a command with the overrides of the command line.

    A user's error ends the command with one sentence and exit status 2. It is a :class:`UserError`, an error of Hydra
    about keys, groups, types or syntax, or a system error that the user can fix, such as a full disk.
    """
    launcher = os.getpid()

    def job(config: DictConfig) -> Any:
        end_with(launcher)
        if started_by_torchrun():
            end_with(os.getppid())
        join_tasks()
        if int(os.environ.get("RANK", "0")) > 0:
            logging.disable(logging.INFO)  # the main process logs for all
        logging.raiseExceptions = False  # on a full disk each line of the log would print a trace
        run = HydraConfig.get()
        with user_errors(), termination(), lost_process_explained():
            run_job, overrides = import_name(command.run), list(run.overrides.task)
            result = run_job(Job(Path(run.runtime.output_dir), overrides, lambda: load(config, overrides)))
            if "RANK" in os.environ:
                leave_at_exit()
            return result

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing a short form
    logging.raiseExceptions = False  # on a full disk the run's own write reports the error
    if command.name == "evaluate":
        with user_errors():
            sys.argv += default_task(given_values(sys.argv[1:]))
    if command.name == "reproduce":
        with user_errors():
            sys.argv += reproduction_arguments(given_values(sys.argv[1:]))
    register_schemas()
    arguments = get_args_parser().parse_args()
    with user_errors():
        if arguments.help:
            _print_page(help_of(command, arguments.overrides, arguments.config_dir))
            return
        if not (arguments.cfg or arguments.info or arguments.hydra_help or arguments.shell_completion):
            check_command_line(command, arguments.overrides, arguments.multirun, arguments.config_dir)
    sys.argv += folder_arguments(sys.argv[1:]) + dry_run_arguments(sys.argv[1:])
    application = hydra.main(version_base="1.3", config_path=str(CONF), config_name=command.name)(job)
    with user_errors(), termination():
        application()


def _print_page(page: str) -> None:
    """Prints a page. The reader may close the pipe before its end, as ``head`` does."""
    try:
        print(page, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_command_line(
    command: Command, overrides: Sequence[str], is_sweep: bool = False, config_folder: str | None = None
) -> None:
    """Checks a command line.

    Args:
        command: The command.
        overrides: Its arguments.
        is_sweep: Whether ``-m`` is among its options.
        config_folder: The value of its option ``--config-dir``.

    Raises:
        UserError: With all problems, each with its key and the values that it may have.
    """
    if is_sweep and not command.sweeps:
        raise UserError(f"-m is for commands that train: run {command.name} once for each value")
    given = given_values(overrides)
    # The options of the group sweep choose Hydra's mode.
    is_sweep = is_sweep or given.get("sweep") is not None
    if is_sweep and given.get("dry_run") is True:
        raise UserError("dry_run=true shows one run: leave out -m and sweep=NAME, and give each key one value")
    with _initialised(config_folder):
        CommandLine(command, overrides, is_sweep).check(partial(problems_of, command))


def help_of(command: Command, overrides: Sequence[str] = (), config_folder: str | None = None) -> str:
    """Returns the page that ``--help`` prints, with the values of a command line."""
    with _initialised(config_folder):
        line = CommandLine(command, overrides, is_sweep=True)
        config = line.config()
        return help_page(config, line.base.hydra.help.header, line.options(), command.sweeps)


@contextmanager
def _initialised(config_folder: str | None) -> Iterator[None]:
    """Initialises Hydra inside the block, with ``conf/`` and another folder of configs."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        if config_folder is not None:
            search_path = create_config_search_path(str(CONF))
            folder = f"file://{Path(config_folder).absolute()}"
            search_path.prepend("command-line", folder, anchor="schema")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("command", search_path)
        yield


@contextmanager
def user_errors() -> Iterator[None]:
    """Prints a user's error as one sentence and exits with status 2; after Ctrl-C with 130, after SIGTERM with 143.

    Within a job of a sweep the error is printed and raised again: Hydra runs the other jobs before it fails.
    """
    try:
        yield
    except Exception as error:
        is_reported = isinstance(error, FailedElsewhereError)  # by the process that has failed
        sentence = _sentence(error)
        if sentence is None and not is_reported:
            raise
        if not is_reported:
            print(f"error: {sentence}", file=sys.stderr)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Stopped: start the same command again to continue.", file=sys.stderr)
        number = getattr(interrupt, "signal", signal.SIGINT)
        requeue_after(number)
        sys.exit(128 + number)


def _sentence(error: Exception) -> str | None:
    """Returns the sentence of a user's error; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        return sentence_of(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = f" {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return " ".join(f"{error}{cause}".split())


OmegaConf.register_new_resolver("run_folder", sweep_run_name, replace=True)
