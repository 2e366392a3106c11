"""Every config composes with the right types, and a wrong value is an error with its key."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf.errors import ConfigKeyError

import experiments.search  # noqa: F401  # registers its schema
from experiments.cli import hydra_config
from experiments.cli.hydra_config import CONF, load
from experiments.runs.run_evaluation import compose_evaluation
from experiments.schema import as_recorded
from experiments.train import check_config
from flamingo.data.builders import InterleavedConfig
from flamingo.evaluation.tasks import CaptioningConfig
from flamingo.model.connectors import MLPConfig
from flamingo.training.losses import NextTokenConfig
from flamingo.training.optim import MuonConfig
from flamingo.utils.errors import UserError
from tests.helpers.configs import CONFIGS, compose_config, composed

TRAIN_GROUPS = (
    "model/vision",
    "model/language",
    "model/connector",
    "model/fusion",
    "model/adapter",
    "data",
    "web_document",
    "loss",
    "optimizer",
    "parallel",
    "hydra/launcher",
    "experiment",
    "ablation",
    "sweep",
    "debug",
)
#: The groups that each command chooses from.
GROUPS = {
    "search": (),
    "train": TRAIN_GROUPS,
    "evaluate": ("task", "protocol"),
    "reproduce": ("protocol",),
    "report": (),
    "inspect_data": ("data",),
    "index": (),
    "list_urls": (),
    "pack_shards": (),
    "contamination": (),
    "word_attention": (),
    "convert": (),
    "caption": (),
    "retrieve": (),
    "zero_shot": (),
    "pretrain_vision": (),
    "pretrain_language": ("text",),
}
#: The keys that options need as well.
VL_ICL = ("open_mi", "matching_mi", "operator_induction", "operator_induction_interleaved", "clevr", "textocr")
STREAMED = "data.documents.streamed"
STREAMED_PAGES = (f"{STREAMED}.sources.pages.root=somewhere", f"{STREAMED}.sources.pages.format=obelics")
NEEDED = {
    "data=streamed_pages": STREAMED_PAGES,
    f"web_document@{STREAMED}.sources.pages.documents=mmc4_openflamingo": ("data=streamed_pages", *STREAMED_PAGES),
    f"web_document@{STREAMED}.sources.pages.documents=m3w_flamingo": ("data=streamed_pages", *STREAMED_PAGES),
    f"web_document@{STREAMED}.sources.pages.documents=obelics_m4": (
        "data=streamed_pages",
        *STREAMED_PAGES,
        f"{STREAMED}.pack_to=1024",
        f"{STREAMED}.max_images=30",
    ),
    "data=streamed_pairs": ("data.documents.streamed.sources.pairs.root=somewhere",),
    "experiment=flickr8k": ("data.root=somewhere", "model.vision=somewhere"),
    "experiment=flickr8k_reward": ("data.root=somewhere", "model.init_from=null"),
    "experiment=captions": ("data.root=somewhere", "model.vision=somewhere", "model.language=somewhere"),
    "experiment=questions": ("data.root=somewhere", "model.vision=somewhere", "model.language=somewhere"),
    "experiment=captions_reward": ("data.root=somewhere", "model.init_from=null"),
    "model/vision=mobilenet": ("model.vision=somewhere",),
    "model/vision=any": ("model.vision=somewhere",),
    "model/language=any": ("model.language=somewhere",),
    "text=captions": ("texts=[somewhere]",),
    "loss@data.documents.pairs.loss=next_token": ("data=images", "data.root=somewhere"),
    "loss@data.documents.pairs.loss=self_critical": ("data=images", "data.root=somewhere"),
    "task=captions": ("task.name=own", "task.query=somewhere"),
    "task=flickr8k": ("task.query=somewhere", "task.support=somewhere"),
    "task=classification": ("task.name=own", "task.query=somewhere"),
    "task=class_folders": ("task.name=own", "task.query=somewhere"),
    "task=hateful_memes": ("task.query=somewhere", "task.support=somewhere"),
    "task=vqa": ("task.name=own", "task.query=somewhere"),
    **{
        f"task={name}": ("task.query=somewhere", "task.support=somewhere")
        for name in ("vqav2", "okvqa", "textvqa", "vizwiz", "nocaps", "textcaps", "vizwiz_captions")
    },
    **{f"task=vl_icl_{name}": ("task.root=somewhere",) for name in VL_ICL},
    **{
        f"task={name}": ("task.query=somewhere", "task.support=somewhere")
        for name in ("nlvr2", "visdial", "winoground")
    },
    "task=coco": ("task.query=somewhere",),
    **{
        f"protocol={name}": ("task=vqav2", "task.query=somewhere", "task.support=somewhere")
        for name in ("flamingo", "openflamingo", "idefics")
    },
    "task=flickr30k": ("task.query=somewhere",),
    "data=questions": ("data.root=somewhere",),
}
#: Modules of config dataclasses.
CONFIG_MODULES = (
    *(f"experiments.{command}" for command in GROUPS),
    "experiments.schema",
    "flamingo.data.builders",
    "flamingo.data.source_config",
    "flamingo.data.splits",
    "flamingo.data.streams.streamed_config",
    "flamingo.evaluation",
    "flamingo.evaluation.tasks",
    "flamingo.inference",
    "flamingo.model.adapter_config",
    "flamingo.model.connectors",
    "flamingo.model.fusion",
    "flamingo.model.vision_features",
    "flamingo.report",
    "flamingo.synthetic",
    "flamingo.training",
    "flamingo.training.losses",
    "flamingo.training.optim",
)
#: Groups whose configs are chosen at a place of the config: by default for one data set.
_PACKAGES = {
    "loss": "loss@data.documents.pairs.loss",
    "web_document": f"web_document@{STREAMED}.sources.pages.documents",
}
OPTIONS = [
    (command, f"{_PACKAGES.get(group, group)}={path.stem}")
    for command, groups in GROUPS.items()
    for group in groups
    for path in sorted((CONF / group).glob("*.yaml"))
]


def test_no_config_is_left_out():
    tested = {path.relative_to(CONF) for command in GROUPS for path in [CONF / f"{command}.yaml"]}
    for _, option in OPTIONS:
        group, _, name = option.partition("=")
        tested.add(Path(group.partition("@")[0], f"{name}.yaml"))
    assert tested | {Path("run.yaml")} == {path.relative_to(CONF) for path in CONF.rglob("*.yaml")}


@pytest.mark.parametrize("command", GROUPS)
def test_every_command_has_a_complete_config(command):
    composed(command)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_every_option_composes(command, option):
    composed(command, option, *NEEDED.get(option, ()))


@pytest.mark.parametrize("command", CONFIGS)
def test_a_config_is_the_dataclass_of_its_command(command):
    assert type(composed(command)) is CONFIGS[command]


def test_kinds_in_a_config_are_their_dataclasses():
    config = composed("train", "experiment=flickr8k", *NEEDED["experiment=flickr8k"], "model/connector=mlp")
    pairs = config.data.documents["pairs"]
    assert (type(config.model.connector), type(config.optimizer)) == (MLPConfig, MuonConfig)
    assert (type(pairs.documents), type(pairs.loss)) == (InterleavedConfig, NextTokenConfig)
    assert type(composed("evaluate", "task=flickr8k", *NEEDED["task=flickr8k"]).task) is CaptioningConfig


def test_the_recorded_config_has_the_keys_of_the_command_line():
    overrides = ("experiment=flickr8k", *NEEDED["experiment=flickr8k"])
    config = composed("train", *overrides)
    recorded = as_recorded(config)
    assert recorded["data"]["documents"]["pairs"]["loss"] == {"kind": "next_token"}
    assert recorded["data"]["documents"]["pairs"]["num_crops"] == 4
    composition = compose_config("train", *overrides)
    for section in ("model", "training", "optimizer", "features", "wandb"):
        assert recorded[section].keys() == composition[section].keys()


def test_an_experiment_and_a_debug_option_go_together():
    config = composed("train", "experiment=demo", "debug=quick")
    assert (config.output, config.training.steps) == ("outputs/debug", 4)
    assert config.data.documents.keys() == {"captions"}
    assert composed("train", "experiment=synthetic").data.documents.keys() == {"captions", "binding", "questions"}


def test_an_evaluation_of_a_training_has_the_commands_config(tmp_path):
    entry = {"kind": "synthetic_binding", "task": {"num_queries": 7}, "shots": [4]}
    config = compose_evaluation(entry, tmp_path)
    expected = composed("evaluate", "task=synthetic_binding", "task.num_queries=7", "shots=[4]", f"run={tmp_path}")
    assert config == expected


@pytest.mark.parametrize(
    ("entry", "error", "named"),
    [
        ({"shots": [4]}, UserError, r"evaluate.*kind"),
        ({"kind": "synthetic_binding", "shots": [-1]}, UserError, r"evaluate\.shots.*-1"),
        ({"kind": "synthetic_binding", "shot": [4]}, ConfigKeyError, r"shot"),
        ({"kind": "synthetic_bindings"}, MissingConfigException, r"synthetic_bindings"),
    ],
)
def test_an_evaluation_that_is_wrong_is_named(tmp_path, entry, error, named):
    with pytest.raises(error, match=named):
        compose_evaluation(entry, tmp_path)


def test_misspelt_keys_and_wrong_types_are_errors_that_name_them():
    with pytest.raises(ConfigCompositionException, match="trainin"):
        composed("train", "trainin.steps=3")
    with pytest.raises(ConfigCompositionException, match=r"training\.steps"):
        composed("train", "training.steps=many")


def test_what_is_needed_and_missing_is_named():
    with pytest.raises(UserError, match=r"(?s)checkpoint needs a value.*output needs a value"):
        load(hydra_config.compose_config("convert"))


@pytest.mark.parametrize(
    "override",
    [
        *(f"data.{key}=a" for key in ("root", "images", "format", "split", "sample_split")),
        "features.folder=a",
        "objective.metric=CIDEr",
        "objective.shots=4",
    ],
)
def test_a_key_that_another_key_makes_useless_is_refused(override):
    key, _, value = override.partition("=")
    with pytest.raises(UserError, match=rf"{re.escape(key)}\b.*{value}"):
        check_config(composed("train", override))


@pytest.mark.parametrize("override", ["include_backbones=true", "model.from_scratch=true"])
def test_int8_is_for_a_frozen_language_model_by_name(override):
    with pytest.raises(UserError, match="dtype=int8"):
        check_config(composed("train", "dtype=int8", override))


def test_varlen_attention_needs_16_bits():
    assert composed("train", "training.packed_attention=varlen", "training.precision=bf16")
    with pytest.raises(UserError, match=r"training\b.*packed_attention=varlen"):
        composed("train", "training.packed_attention=varlen")


def test_epochs_without_texts_are_refused():
    with pytest.raises(UserError, match=r"epochs\b.*2"):
        composed("pretrain_language", "epochs=2")


def test_a_section_names_the_full_key_of_a_wrong_value():
    with pytest.raises(UserError, match=r"^data\.documents\.captions\.max_images .*0"):
        composed("train", "data.documents.captions.max_images=0")
    with pytest.raises(UserError, match=r"^model\.connector\.depth .*0"):
        composed("train", "model.connector.depth=0")


@pytest.mark.parametrize("module", CONFIG_MODULES)
def test_config_modules_import_neither_torch_nor_transformers(module):
    program = f"import sys, {module}; print(sorted({{'torch', 'transformers'}} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("key", ["query", "support"])
def test_a_key_of_another_kind_of_task_is_refused(key):
    with pytest.raises(ConfigCompositionException, match=key):
        composed("evaluate", f"task.{key}=a")
