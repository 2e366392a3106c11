"""The commands' configs, composed as on a command line."""

from copy import deepcopy
from functools import cache
from typing import Any

from omegaconf import DictConfig

import experiments.search  # noqa: F401  # has its schema
from experiments.caption import CaptionConfig
from experiments.cli import hydra_config
from experiments.cli.command import COMMANDS
from experiments.contamination import ContaminationConfig
from experiments.convert import ConvertConfig
from experiments.evaluate import EvaluateConfig
from experiments.index import IndexConfig
from experiments.inspect_data import InspectDataConfig
from experiments.list_urls import ListUrlsConfig
from experiments.pack_shards import PackShardsConfig
from experiments.pretrain_language import PretrainLanguageConfig
from experiments.pretrain_vision import PretrainVisionConfig
from experiments.report import ReportConfig
from experiments.reproduce import ReproduceConfig
from experiments.retrieve import RetrieveConfig
from experiments.train import TrainConfig
from experiments.word_attention import WordAttentionConfig
from experiments.zero_shot import ZeroShotConfig
from flamingo.utils.errors import UserError

#: The config of each command.
CONFIGS = {
    "train": TrainConfig,
    # A search's config is a training's, with the section `search`.
    "search": TrainConfig,
    "evaluate": EvaluateConfig,
    "reproduce": ReproduceConfig,
    "word_attention": WordAttentionConfig,
    "pretrain_vision": PretrainVisionConfig,
    "pretrain_language": PretrainLanguageConfig,
    "convert": ConvertConfig,
    "caption": CaptionConfig,
    "retrieve": RetrieveConfig,
    "zero_shot": ZeroShotConfig,
    "report": ReportConfig,
    "inspect_data": InspectDataConfig,
    "index": IndexConfig,
    "list_urls": ListUrlsConfig,
    "pack_shards": PackShardsConfig,
    "contamination": ContaminationConfig,
}
#: The overrides that a command needs.
REQUIRED = {
    "evaluate": ("run=somewhere",),
    "reproduce": ("published=HuggingFaceM4/idefics-9b", "run=somewhere"),
    "report": ("run=somewhere",),
    "word_attention": ("run=somewhere",),
    "inspect_data": ("data.root=somewhere",),
    "index": ("root=somewhere", "format=tar"),
    "list_urls": ("root=somewhere", "format=mmc4", "output=elsewhere"),
    "pack_shards": ("root=somewhere", "output=elsewhere"),
    "contamination": ("output=elsewhere",),
    "convert": ("checkpoint=somewhere", "output=elsewhere"),
    "caption": ("checkpoint=somewhere", "images=somewhere", "output=captions.jsonl"),
    "retrieve": ("encoder=somewhere", "output=elsewhere"),
    "zero_shot": ("query=somewhere", "encoder=somewhere", "output=elsewhere"),
}


def compose_config(command: str, *overrides: str) -> DictConfig:
    """Returns the config as Hydra composes it, before it becomes a dataclass."""
    required = REQUIRED.get(command, ())
    if command == "evaluate" and not any(override.startswith("task=") for override in overrides):
        required += ("task=synthetic_captions",)
    if command == "reproduce":
        required += ("task=vqav2", "task.query=somewhere", "task.support=somewhere")
    return deepcopy(_composed(command, required + overrides))


@cache
def _composed(command: str, overrides: tuple[str, ...]) -> DictConfig:
    # Hydra needs a quarter of a second to compose a config, and many tests change a value of the same one.
    return hydra_config.compose_config(command, overrides)


def composed(command: str, *overrides: str) -> Any:
    """Returns the config of a command as its dataclass."""
    return hydra_config.load(compose_config(command, *overrides), overrides)


def problems(*overrides: str, command: str = "train", **options: Any) -> list[str]:
    """Returns the problems of a command line."""
    try:
        hydra_config.check_command_line(COMMANDS[command], overrides, **options)
    except UserError as error:
        first, *others = str(error).split("\n- ")
        return others or [first]
    return []
