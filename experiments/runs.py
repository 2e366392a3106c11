"""What every command shares: errors as one sentence, signals, processes, memory."""

import ctypes
import logging
import os
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
from accelerate import PartialState
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoConfig

from experiments.sweeps import folder_arguments
from flamingo.utils.errors import Stopped, UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import USER_ERRNOS, sentence_of

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_CONF = Path(__file__).parents[1] / "conf"

#: Of glibc's malloc.h: how many memory maps malloc may use, and how much it may keep at the end of its heap.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def command(config_name: str) -> Callable[[Callable[[DictConfig], Result]], Callable[[], None]]:
    """Decorator: a function of a config as the command whose config is ``conf/CONFIG_NAME.yaml``.

    A user's error ends the command with one sentence and exit status 2: a :class:`UserError`, one of Hydra's about
    keys, groups, types and syntax, and a system error that the user can mend, such as a full disk. Every other
    exception keeps its trace.
    """

    def decorate(function: Callable[[DictConfig], Result]) -> Callable[[], None]:
        @wraps(function)
        def job(config: DictConfig) -> Result:
            logging.raiseExceptions = False  # a log file on a full disk would print a trace for each line
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
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
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


def _sentence(error: Exception) -> str | None:
    """What a user's error says; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        return sentence_of(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = f" {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return " ".join(f"{error}{cause}".split())


def start_processes() -> PartialState:
    """The processes of this run, if there are several; whoever asks first decides how they talk to each other."""
    # Without an accelerator they talk as CPUs do, which accelerate does not find out.
    return PartialState(cpu=not torch.accelerator.is_available())


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
    from_pretrained(AutoConfig, name, key)
