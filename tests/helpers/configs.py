"""The commands' configs, composed as on a command line."""

from typing import Any

from omegaconf import DictConfig

import experiments.convert
import experiments.evaluate
import experiments.pretrain_language
import experiments.pretrain_vision
import experiments.report
import experiments.search
import experiments.train
import experiments.word_attention  # noqa: F401  # each has its schema
from experiments import hydra_config

#: The overrides that a command needs.
REQUIRED = {
    "evaluate": ("run=somewhere",),
    "report": ("run=somewhere",),
    "word_attention": ("run=somewhere",),
    "convert": ("checkpoint=somewhere", "output=elsewhere"),
}


def compose_config(command: str, *overrides: str) -> DictConfig:
    """Returns the config as Hydra composes it, before it becomes a dataclass."""
    return hydra_config.compose_config(command, REQUIRED.get(command, ()) + overrides)


def composed(command: str, *overrides: str) -> Any:
    """Returns the config of a command as its dataclass."""
    return hydra_config.load(compose_config(command, *overrides))
