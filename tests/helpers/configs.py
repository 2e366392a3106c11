"""The commands' configs, composed as on a command line."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import experiments.convert
import experiments.evaluate
import experiments.pretrain_language
import experiments.pretrain_vision
import experiments.report
import experiments.search
import experiments.train
import experiments.word_attention  # noqa: F401  # each registers its schema
from experiments.schema import load

CONF = Path(__file__).parents[2] / "conf"
#: The overrides that a command needs.
REQUIRED = {
    "evaluate": ("run=somewhere",),
    "report": ("run=somewhere",),
    "word_attention": ("run=somewhere",),
    "convert": ("checkpoint=somewhere", "output=elsewhere"),
}


def compose_config(command: str, *overrides: str) -> DictConfig:
    """Returns the config as Hydra composes it, before it becomes a dataclass."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=[*REQUIRED.get(command, ()), *overrides])


def composed(command: str, *overrides: str) -> Any:
    """Returns the config of a command as its dataclass."""
    return load(compose_config(command, *overrides))
