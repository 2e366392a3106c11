"""Every config composes, has the right types, and says what is wrong with a value."""

import re
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

import experiments.search  # noqa: F401  # registers its schema
from experiments.configs import build, check, plain, schema
from experiments.convert import ConvertConfig
from experiments.evaluate import EvaluateConfig, plan
from experiments.pretrain_language import PretrainLanguageConfig
from experiments.pretrain_vision import PretrainVisionConfig
from experiments.report import ReportConfig
from experiments.schema import load
from experiments.train import TrainConfig, check_config
from experiments.word_attention import WordAttentionConfig
from flamingo.utils.checks import within
from flamingo.utils.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
TRAIN_GROUPS = (
    "model/vision",
    "model/language",
    "model/connector",
    "model/fusion",
    "data",
    "loss",
    "optimizer",
    "experiment",
    "ablation",
    "sweep",
    "debug",
)
#: The commands, with what they must be told, and the groups that each chooses from.
COMMANDS = {
    "search": ((), ()),
    "train": ((), TRAIN_GROUPS),
    "evaluate": (("run=somewhere",), ("task",)),
    "report": (("run=somewhere",), ()),
    "word_attention": (("run=somewhere",), ()),
    "convert": (("checkpoint=somewhere", "output=elsewhere"), ()),
    "pretrain_vision": ((), ()),
    "pretrain_language": ((), ("text",)),
}
SCHEMAS = {
    "train": TrainConfig,
    # A search's config is a training's, and `search` beside it.
    "search": TrainConfig,
    "evaluate": EvaluateConfig,
    "word_attention": WordAttentionConfig,
    "pretrain_vision": PretrainVisionConfig,
    "pretrain_language": PretrainLanguageConfig,
    "convert": ConvertConfig,
    "report": ReportConfig,
}
#: Configs that are dataclasses all the way down.
TYPED = (PretrainLanguageConfig, PretrainVisionConfig)
#: What options must be told besides.
NEEDED = {
    "experiment=captions": ("data.root=somewhere", "model.vision=somewhere"),
    "experiment=captions_reward": ("data.root=somewhere", "model.vision=somewhere"),
    "model/vision=mobilenet": ("model.vision=somewhere",),
    "text=captions": ("texts=[somewhere]",),
    "task=flickr8k": ("task.query=somewhere", "task.support=somewhere"),
}
#: Groups whose configs are chosen at a place of the config: by default for one data set.
_PACKAGES = {"loss": "loss@data.documents.captions.loss"}
OPTIONS = [
    (command, f"{_PACKAGES.get(group, group)}={path.stem}")
    for command, (_, groups) in COMMANDS.items()
    for group in groups
    for path in sorted((CONF / group).glob("*.yaml"))
]


def composed(command, *overrides):
    needed, _ = COMMANDS[command]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose(command, overrides=[*needed, *overrides]))


def loaded(command, *overrides):
    """The typed config of a command."""
    needed, _ = COMMANDS[command]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose(command, overrides=[*needed, *overrides]))


def check_command(command, config):
    """Check the values of a command's config."""
    if SCHEMAS[command] in TYPED:
        make(SCHEMAS[command], config)
    else:
        check(SCHEMAS[command], config)


def make(cls, values):
    """The dataclass of nested mappings."""
    hints = get_type_hints(cls)
    sections = {}
    for name, section in values.items():
        if is_dataclass(hints[name]):
            with within(name):
                sections[name] = make(hints[name], section)
    return cls(**{**values, **sections})


def test_no_config_is_left_out():
    tested = {path.relative_to(CONF) for command in COMMANDS for path in [CONF / f"{command}.yaml"]}
    for _, option in OPTIONS:
        group, _, name = option.partition("=")
        tested.add(Path(group.partition("@")[0], f"{name}.yaml"))
    assert tested | {Path("run.yaml")} == {path.relative_to(CONF) for path in CONF.rglob("*.yaml")}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_complete_config(command):
    config = composed(command)
    config.pop("search", None)
    check_command(command, config)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_every_option_composes(command, option):
    check_command(command, composed(command, option, *NEEDED.get(option, ())))


def test_an_experiment_and_a_debug_option_go_together():
    config = composed("train", "experiment=demo", "debug=quick")
    assert (config["output"], config["training"]["steps"]) == ("outputs/debug", 4)
    assert config["data"]["documents"].keys() == {"captions"}
    assert composed("train", "experiment=synthetic")["data"]["documents"].keys() == {"captions", "binding", "questions"}


def test_a_misspelt_key_and_a_value_of_the_wrong_type_are_errors_that_name_them():
    with pytest.raises(ConfigCompositionException, match="trainin"):
        composed("train", "trainin.steps=3")
    with pytest.raises(ConfigCompositionException, match=r"training\.steps"):
        composed("train", "training.steps=many")


def test_what_is_needed_and_missing_is_named():
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(UserError, match=r"for checkpoint, output$"),
    ):
        plain(compose("convert"))


@dataclass
class Colours:
    steps: int
    first: Literal["red", "blue"] = "red"
    pair: tuple[float, float] = (0.5, 1.0)


def test_a_schema_has_the_fields_of_its_dataclass():
    config = OmegaConf.structured(schema(Colours))
    assert OmegaConf.missing_keys(config) == {"steps"}
    config.steps = 3
    assert build(Colours, plain(config), "colours") == Colours(3, "red", (0.5, 1.0))


@pytest.mark.parametrize(
    ("command", "override"),
    [
        *(("train", f"data.{key}=a") for key in ("root", "images", "format", "split", "sample_split")),
        *(("train", override) for override in ("features.folder=a", "objective.metric=CIDEr", "objective.shots=4")),
        ("pretrain_language", "epochs=2"),
    ],
)
def test_a_key_that_another_key_makes_useless_is_refused(command, override):
    checks = {"train": check_config, "pretrain_language": partial(make, PretrainLanguageConfig)}
    key, _, value = override.partition("=")
    with pytest.raises(UserError, match=rf"{re.escape(key)}\b.*{value}"):
        checks[command](composed(command, override))


@pytest.mark.parametrize("key", ["query", "support"])
def test_a_key_of_another_kind_of_task_is_refused(key):
    with pytest.raises(UserError, match=rf"task .*'{key}'"):
        plan(composed("evaluate", f"+task.{key}=a"))
