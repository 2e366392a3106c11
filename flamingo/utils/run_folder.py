"""A run's folder: its owner, the config and data of the run in it, and the earlier run that a new one replaces."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from transformers import AutoConfig

from flamingo.utils.checksums import folder_checksums, sampled_checksum
from flamingo.utils.devices import processes
from flamingo.utils.differences import differences
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import file_errors, remove_leftovers, write_text
from flamingo.utils.lock import owner
from flamingo.utils.reading import complete_lines, read_config
from flamingo.utils.sharing import on_main_process

log = logging.getLogger(__name__)

#: Keys that do not change a run's results.
_NOT_RESULTS = ("overwrite", "dry_run", "left_open", "num_workers", "device", "tracker", "wandb")
#: Keys of training that set how often it writes. They do not change the weights.
WRITING = (
    "training.log_every",
    "training.save_every",
    "training.keep_every",
    "training.sample_every",
    "training.validate_every",
)
#: Complete states of a training.
STATES = ("state/step-*/complete.json",)
#: The error that ended a run.
_FAILURE = "failure.txt"
#: Folders of the run that is being replaced: while its files move there or back, while it waits for the new run's
#: first state, and while it is removed. After a kill the next start finds by the name what it has to finish.
_MOVING, _PREVIOUS, _REMOVED = ".previous.moving", ".previous", ".previous.removed"
#: A file in these folders: the patterns of a new run's files, and of the files that a later start continues from.
_NAMES = "names.json"


@dataclass(frozen=True)
class RunFiles:
    """The files of a command in its folder."""

    #: Names of results.
    results: tuple[str, ...]
    #: Patterns of the results from which a later start continues. A folder with one belongs to a run: folders, and
    #: files of lines.
    saved: tuple[str, ...]
    #: Patterns of files that describe the results.
    descriptions: tuple[str, ...] = ()
    #: Keys of the config that may differ when the command is started again.
    may_change: tuple[str, ...] = ()
    #: Keys whose number may be larger when the command is started again.
    may_grow: tuple[str, ...] = ()
    #: The file of the resolved config. Its ``contents`` are checksums of the weights and data that the config names.
    config_file: str = "config.yaml"


class Run:
    """A folder that this process owns, or whose owner is another process of the same run."""

    def __init__(self, output: Path, config: dict[str, Any], files: RunFiles) -> None:
        self.output, self.config, self.files = output, config, files
        self.has_begun = False

    @property
    def is_new(self) -> bool:
        """Whether no run has begun in the folder."""
        return not (self.output / self.files.config_file).exists()

    @property
    def has_results(self) -> bool:
        """Whether a run has left more than its config."""
        return any((self.output / name).exists() for name in self.files.results)

    @property
    def is_owned(self) -> bool:
        """Whether the folder belongs to a run: one that has saved something to continue from, or to report."""
        return not self.is_new and any(_is_saved(path) for path in _matching(self.output, self.files.saved))

    def check(self) -> None:
        """Checks that the folder belongs to no run of another config. With the config's ``overwrite`` it may.

        Raises:
            UserError: If it does; the error lists the differences.
        """
        if self.is_owned and not self.config.get("overwrite"):
            earlier = read_config(self.output / self.files.config_file)
            earlier.pop("contents", None)
            self._compare(earlier, self._decisive())

    def check_contents(self, contents: dict[str, Any]) -> None:
        """Checks that the folder's run has the same contents under these keys.

        Raises:
            UserError: If a checksum differs; the error lists the differences.
        """
        earlier = read_config(self.output / self.files.config_file).get("contents") or {}
        recorded = {key: earlier.get(key) for key in contents}
        self._compare({"contents": recorded}, {"contents": contents})

    def begin(self, contents: dict[str, Any]) -> None:
        """Makes the folder this run's. The run writes to the folder only after this call.

        A folder in which nothing is saved belongs to no run: files of another config in it are removed.

        Args:
            contents: Checksums of the weights and data that the config only names.

        Raises:
            UserError: If the folder holds results of other contents, unless the config's ``overwrite`` is set.
        """
        on_main_process(lambda: self._begin(contents))
        self.has_begun = True

    def keep(self) -> None:
        """Removes the run that this one replaces. It is called when this run has saved something to continue from."""
        if PartialState().is_main_process and (self.output / _PREVIOUS).exists():
            _remove_previous(self.output)

    def _begin(self, contents: dict[str, Any]) -> None:
        if self.has_results and self.config.get("overwrite"):
            _move_aside(self.output, self._patterns(), self.files.saved)
        elif self.is_owned:
            earlier = read_config(self.output / self.files.config_file)
            self._compare({"contents": earlier.get("contents")}, {"contents": contents})
        elif not self.is_new:
            self._take_over(contents)
        if _FAILURE in self.files.descriptions:
            (self.output / _FAILURE).unlink(missing_ok=True)
        described = self._decisive() | {"contents": contents}
        write_text(self.output / self.files.config_file, yaml.safe_dump(described, sort_keys=False))

    def _take_over(self, contents: dict[str, Any]) -> None:
        """Removes and logs the files of a run that has saved nothing, if its config or its data were others."""
        earlier = read_config(self.output / self.files.config_file)
        if different := differences(earlier, self._decisive() | {"contents": contents}, ("output",)):
            log.info(
                "%s: the run there ended before it had saved anything, so this config takes its folder over (%s)",
                self.output,
                "; ".join(different),
            )
            for path in _matching(self.output, self.files.results):
                _remove(path)

    def _patterns(self) -> list[str]:
        return list(self.files.results + self.files.descriptions) + [self.files.config_file]

    def _decisive(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.items() if key not in _NOT_RESULTS}

    def _compare(self, earlier: dict[str, Any], now: dict[str, Any]) -> None:
        # A folder may be moved between two starts.
        grown = tuple(key for key in self.files.may_grow if _grows(earlier, now, key))
        if different := differences(earlier, now, ("output",) + self.files.may_change + grown):
            raise UserError(
                f"{self.output} holds a run with another config or other data ({'; '.join(different)}): "
                "choose another output=..., or overwrite it with overwrite=true"
            )


def value_at(config: Any, key: str) -> Any:
    """Returns the value of a nested config at a key such as ``training.steps``; None if there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _grows(earlier: dict[str, Any], now: dict[str, Any], key: str) -> bool:
    before, after = value_at(earlier, key), value_at(now, key)
    return isinstance(before, int) and isinstance(after, int) and before < after


@contextmanager
def run_folder(output: Path, config: dict[str, Any], files: RunFiles, check: bool = True) -> Iterator[Run]:
    """Yields a run whose folder this process owns inside the block.

    With the config's ``overwrite`` the earlier run moves to ``OUTPUT/.previous`` when the new one begins. It is
    removed when the new one has saved something to continue from. It comes back if the new one ends before that. After
    a kill the next start does the same.

    Args:
        output: The folder.
        config: The resolved config.
        files: The files of the command in its folder.
        check: Whether to call :meth:`Run.check` at once; otherwise the block calls it.

    Raises:
        UserError: If another process owns the folder, or if it holds a run of another config.
    """
    processes()
    run = Run(output, config, files)
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(owner(output))
            with file_errors(output):
                for folder in [output] + list(output.glob("pictures/*/")):
                    remove_leftovers(folder)
                _keep_one(output)
            if check:
                run.check()

        on_main_process(enter)
        try:
            yield run
        except BaseException:
            if PartialState().is_main_process:
                _keep_one(output)
            raise
        run.keep()


@contextmanager
def failure_recorded(run: Run) -> Iterator[None]:
    """Records the error that ends a run in ``failure.txt``, for the table of its sweep, until the run is started again.

    A folder that belongs to a run already does not get the file from an error before :meth:`Run.begin`.
    """
    try:
        yield
    except Exception as error:
        if PartialState().is_main_process and (run.has_begun or not run.is_owned):
            write_text(run.output / _FAILURE, f"{type(error).__name__}: {error}\n")
        raise


def model_contents(name: str | Path) -> dict[str, Any]:
    """Returns the identity of a model: checksums of a folder's files; for a name on the hub, the commit.

    Raises:
        UserError: If there is no such folder, and no model of this name on the hub.
    """
    path = Path(name)
    if path.is_dir():
        return folder_checksums(path)
    if path.is_file():
        return {path.name: sampled_checksum(path)}
    return {"commit": from_pretrained(AutoConfig, name, "model")._commit_hash}


def _move_aside(output: Path, patterns: Sequence[str], saved: Sequence[str]) -> None:
    moving = output / _MOVING
    with file_errors(output):
        moving.mkdir()
        write_text(moving / _NAMES, json.dumps({"made": list(patterns), "saved": list(saved)}))
        for path in _matching(output, patterns):
            path.rename(moving / path.name)
        moving.rename(output / _PREVIOUS)


def _keep_one(output: Path) -> None:
    """Removes the earlier run if the new one has saved something. Otherwise restores it and removes the new one."""
    moving, previous = output / _MOVING, output / _PREVIOUS
    shutil.rmtree(output / _REMOVED, ignore_errors=True)
    if previous.exists():
        names = json.loads((previous / _NAMES).read_text())
        if any(_is_saved(path) for path in _matching(output, names["saved"])):
            _remove_previous(output)
            return
        log.warning("%s: the run that was to be overwritten is restored", output)
        for path in _matching(output, names["made"]):
            _remove(path)
        previous.rename(moving)
    if moving.exists():
        for path in moving.iterdir():
            if path.name != _NAMES:
                path.rename(output / path.name)
        shutil.rmtree(moving)


def _is_saved(path: Path) -> bool:
    """Returns whether the path is a folder, which appears complete, or a file with a complete line."""
    return path.is_dir() or bool(complete_lines(path))


def _remove_previous(output: Path) -> None:
    with file_errors(output):
        (output / _PREVIOUS).rename(output / _REMOVED)
    shutil.rmtree(output / _REMOVED, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _matching(output: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in output.glob(pattern)})
