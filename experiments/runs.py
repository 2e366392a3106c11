"""A run's folder: its resolved config, what is finished in it, and errors without stack traces."""

import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
import torch
import yaml
from accelerate import PartialState
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoConfig

from experiments.sweeps import folder_arguments
from flamingo.utils.errors import Stopped, UserError
from flamingo.utils.io import write_text

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_CONF = Path(__file__).parents[1] / "conf"

#: Keys that say how a run is carried out, and change nothing of its results.
_NOT_RESULTS = ("overwrite", "workers", "wandb")
#: Of glibc's malloc.h: how many memory maps malloc may use, and how much it may keep at the end of its heap.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def command(config_name: str) -> Callable[[Callable[[DictConfig], Result]], Callable[[], None]]:
    """Decorator: a function of a config as the command whose config is ``conf/CONFIG_NAME.yaml``.

    A user's error, Hydra's own about keys, groups, types and syntax among them, ends the command with one sentence and
    exit status 2. Every other exception keeps its trace.
    """

    def decorate(function: Callable[[DictConfig], Result]) -> Callable[[], None]:
        @wraps(function)
        def job(config: DictConfig) -> Result:
            with user_errors(), termination():
                return function(config)

        application = hydra.main(version_base="1.3", config_path=str(_CONF), config_name=config_name)(job)

        @wraps(function)
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would else print, shortened
            logging.raiseExceptions = False  # a log file on a full disk prints no traces: the run's own write fails
            sys.argv += folder_arguments(sys.argv[1:], _CONF)
            with user_errors(), termination():
                application()

        return main

    return decorate


@contextmanager
def user_errors() -> Iterator[None]:
    """Print a user's error as one sentence and exit with status 2; after Ctrl-C exit with 130, after SIGTERM with 143.

    Within a job of a sweep the error is printed and raised again: Hydra runs the other jobs before it fails.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Stopped: start the same command again to continue.", file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signal", signal.SIGINT))


@contextmanager
def termination() -> Iterator[None]:
    """SIGTERM raises :class:`Stopped` inside the block, as Ctrl-C does KeyboardInterrupt. A second one ends at once."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped("", number)

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _sentence(error: Exception) -> str:
    """The error's message, and of Hydra's errors also the message of what caused them, without line breaks."""
    message = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        message = f"{message} {error.__cause__}"
    return message if isinstance(error, UserError) else " ".join(message.split())


def start_processes() -> PartialState:
    """The processes of this run, if there are several; whoever asks first decides how they talk to each other."""
    # Without an accelerator they talk as CPUs do, which accelerate does not find out.
    return PartialState(cpu=not torch.accelerator.is_available())


def begin(
    output: Path,
    config: dict[str, Any],
    produces: tuple[str, ...],
    file: str = "config.yaml",
    may_change: tuple[str, ...] = (),
) -> None:
    """Make the folder and keep the resolved config in it, as ``file``.

    A folder that holds the same config already is gone on with, as far as keys go that may not change;
    where the folder lies (``output``) always may.
    Raises UserError where it holds another, unless ``config["overwrite"]``, which removes what the
    earlier run has left: ``produces``.
    """
    if not start_processes().is_main_process:
        return
    path = output / file
    wanted = {key: value for key, value in config.items() if key not in _NOT_RESULTS}
    if path.exists():
        earlier = yaml.safe_load(path.read_text())
        if config.get("overwrite"):
            for name in produces:
                shutil.rmtree(output / name) if (output / name).is_dir() else (output / name).unlink(missing_ok=True)
        elif not any((output / name).exists() for name in produces):
            pass  # It failed before it made anything, perhaps because of what is mended now.
        elif different := [d for d in _differences(earlier, wanted) if not d.startswith(("output ", *may_change))]:
            raise UserError(
                f"{output} holds a run with another config ({'; '.join(different)}). "
                f"Choose another output=..., or overwrite it with overwrite=true"
            )
    output.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(wanted, sort_keys=False))


@contextmanager
def failure_recorded(output: Path, of_new_run: bool = False) -> Iterator[None]:
    """The error that ends a run is left in ``failure.txt``, for its sweep's table, until the run is tried again.

    ``of_new_run``: not if the folder holds a run already, which an error before :func:`begin` leaves as it is.
    """
    path = output / "failure.txt"
    if of_new_run and (output / "config.yaml").exists():
        yield
        return
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        write_text(path, f"{type(error).__name__}: {error}\n")
        raise


def keep_memory() -> None:
    """Let glibc keep what tensors leave: given back, each page costs a page fault when the next tensor comes.

    Activations of a batch of long prompts, or of pictures in a convolutional encoder, take hundreds of megabytes a
    layer, and page faults so a seventh of the time and more. Where tensors are small it costs a little. Other systems'
    allocators are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            mallopt(parameter, value)


def check_model(name: str, key: str) -> None:
    """Raise UserError, naming the key of the config, unless a model of transformers has this name."""
    try:
        AutoConfig.from_pretrained(name)
    except OSError as error:
        raise UserError(f"config key {key}: {name} is no folder of a model, nor found on the hub") from error


def _differences(earlier: Any, wanted: Any, key: str = "") -> list[str]:
    if isinstance(earlier, dict) and isinstance(wanted, dict):
        keys = sorted({*earlier, *wanted}, key=str)
        pairs = [(earlier.get(k, "absent"), wanted.get(k, "absent"), f"{key}.{k}" if key else str(k)) for k in keys]
        return [difference for pair in pairs for difference in _differences(*pair)]
    return [] if earlier == wanted else [f"{key} was {earlier!r}, is {wanted!r}"]
