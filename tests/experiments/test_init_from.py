"""A training from a checkpoint: the values that the checkpoint sets, and values that do not fit it."""

import json
import logging
import re

import pytest
import torch
import yaml

from experiments.runs.run_conversion import run_conversion
from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from experiments.setup.build import build_model, load_model
from experiments.setup.init_from import command_line_keys
from flamingo.model.connectors import PerceiverConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.utils.errors import UserError
from tests.golden.scenes import write_scenes
from tests.helpers import idefics_checkpoint
from tests.helpers.configs import composed
from tests.helpers.small_runs import SMALL_DEMO


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """An IDEFICS that contains its backbones, which have no other source."""
    folder = tmp_path_factory.mktemp("idefics")
    theirs = idefics_checkpoint.save(idefics_checkpoint.make(), folder / "theirs")
    tokenizer = json.loads((theirs / "tokenizer_config.json").read_text())
    tokenizer["model_max_length"] = 2048  # of the language model
    (theirs / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    run_conversion(composed("convert", "source=idefics", f"checkpoint={theirs}", f"output={folder / 'ours'}"))
    return folder / "ours"


def weights(model):
    return {name: tensor for name, tensor in model.state_dict().items() if "passed" not in name}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("name", ["", "checkpoint"])
def test_a_run_and_its_checkpoint_are_begun_with_alike(demo, name):
    model, processor = build_model(composed("train", f"model.init_from={demo / name}").model)
    start, _ = load_model(demo / "checkpoint", "auto")
    assert_same_weights(weights(model), weights(start))
    assert processor.image_processor.size["height"] == 64


def test_a_checkpoint_beats_yaml_and_logs_what_it_replaces(demo, caplog):
    with caplog.at_level(logging.INFO):
        config = composed("train", "experiment=flickr8k", "data.root=a", f"model.init_from={demo}")
    expected = composed("train", "experiment=demo")
    # What an untrained model of the demo has, but for the dropout of the experiment.
    assert config.model.fusion.every == expected.model.fusion.every == 2
    assert config.model.connector == PerceiverConfig(**{**vars(expected.model.connector), "dropout": 0.3})
    assert config.model.vision_features == VisionFeaturesConfig(class_token="none")  # which the encoder has
    assert (config.model.image_size, config.model.vision, config.include_backbones) == (64, "checkpoint", True)
    lines = {record.message.split(" is ")[0]: record.message for record in caplog.records}
    assert lines["model.fusion.every"] == (
        "model.fusion.every is 2, from the checkpoint of model.init_from, in the place of 1"
    )
    replaced = {
        *(f"model.fusion.{key}" for key in ("every", "num_heads", "mlp_ratio")),
        *(f"model.connector.{key}" for key in ("num_heads", "mlp_ratio")),
        *("model.vision_features.hidden_state", "model.image_size", "model.vision", "model.language"),
    }
    assert lines.keys() == replaced


def test_the_command_line_beats_the_checkpoint(demo):
    overrides = (f"model.init_from={demo}", "model.image_size=96", "model.vision_features.hidden_state=-2")
    config = composed("train", *overrides, "model.fusion.dropout=0.25", "model.aspect=crop")
    assert (config.model.image_size, config.model.fusion.dropout, config.model.fusion.every) == (96, 0.25, 2)
    assert config.model.vision_features.hidden_state == -2
    template = "model.caption_template='It shows {caption}'"
    model, processor = build_model(composed("train", *overrides[:2], "model.fusion.dropout=0.25", template).model)
    assert model.config.fusion.dropout == 0.25
    assert processor.template.text == processor.caption_template == "It shows {caption}"
    assert processor.image_processor.size == {"height": 96, "width": 96}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model/connector=qformer", "model.connector.kind is qformer"),
        ("model/fusion=prefix", "model.fusion.kind is prefix"),
        ("model.from_scratch=true", "model.from_scratch"),
    ],
)
def test_another_kind_of_part_is_refused_by_its_key(demo, override, key):
    with pytest.raises(UserError, match=f"^{re.escape(key)}"):
        composed("train", f"model.init_from={demo}", override)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.fusion.every=1", "model.fusion.every=1 (2 in the checkpoint)"),
        ("model.connector={num_latents: 7}", "model.connector.num_latents=7 (16 in the checkpoint)"),
        ("model.vision_features.hidden_state=1", "model.vision_features.hidden_state=1 (-1 in the checkpoint)"),
        ("model.vision_features.class_token=keep", "model.vision_features.class_token=keep"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused_by_its_key(demo, override, key):
    config = composed("train", f"model.init_from={demo}", override)
    with pytest.raises(UserError, match=f"^{re.escape(key)}"):
        build_model(config.model)


def test_other_backbones_are_refused_by_their_keys(demo, backbones):
    for key, family in (("vision", "mobilenet_v2"), ("language", "gpt2")):
        config = composed("train", f"model.init_from={demo}", f"model.{key}={backbones / family}")
        with pytest.raises(UserError, match=rf"^model\.{key}: .*{family}"):
            build_model(config.model)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^model\.init_from: there is no checkpoint"):
        composed("train", f"model.init_from={tmp_path}")
    (tmp_path / "state").mkdir()
    with pytest.raises(UserError, match=r"^model\.init_from: .* no checkpoint yet"):
        composed("train", f"model.init_from={tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r"^model\.init_from: .* holds a gpt2"):
        composed("train", f"model.init_from={tmp_path}")
    with pytest.raises(UserError, match=r"^model\.init_from needs a value"):
        composed("train", "model.vision=checkpoint")


def test_groups_mappings_and_added_keys_count_as_overrides():
    overrides = ["model/fusion=prefix", "model.connector={depth: 2}", "+a.b=1", "~c.d", "model/vision=mobilenet"]
    assert command_line_keys(overrides) == {"model.fusion.kind", "model.connector.depth", "a.b", "model.vision"}


@pytest.mark.full
def test_a_converted_checkpoint_trains_with_data_keys_alone(converted, tmp_path):
    """It needed 17 overrides. The number of steps is this test's."""
    data = write_scenes(tmp_path / "data", "train", 12)
    output = tmp_path / "run"
    few = ("training.steps=2", "optimizer.warmup_steps=1", "tracker=none")
    data_keys = (f"data.root={data}", "data.split=null", "data.sample_split=null")
    config = composed(
        "train", "experiment=captions", f"model.init_from={converted}", *data_keys, *few, f"output={output}"
    )
    run_training(config, output)
    model, processor = load_model(output / "checkpoint", "auto")
    start, begun = load_model(converted, "auto")
    before, after = weights(start), weights(model)
    # The experiment has its backbones in bfloat16.
    changed = {
        name.split(".")[0] for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])
    }
    assert changed == {"connector", "fusion", "new_tokens"}
    assert (processor.end_of_chunk, processor.image_marker) == (begun.end_of_chunk, begun.image_marker)
    recorded = yaml.safe_load((output / "config.yaml").read_text())
    assert recorded["model"]["language"] == "checkpoint"
    assert recorded["contents"].keys() >= {"init_from", "data"}
    task = (f"task.query={data}", f"task.support={data}", "task.query_split=null", "task.support_split=null")
    run_evaluation(composed("evaluate", "task=flickr8k", *task, f"run={output}", "limit=2", "shots=[0]", "controls=[]"))
    assert json.loads((output / "scores.json").read_text())


def test_a_checkpoint_keeps_backbones_that_nothing_else_names(converted, tmp_path):
    overrides = (*SMALL_DEMO, f"model.init_from={converted}", f"output={tmp_path}")
    assert composed("train", *overrides).include_backbones
    with pytest.raises(UserError, match=r"^include_backbones"):
        run_training(composed("train", *overrides, "include_backbones=false"), tmp_path)
    assert not (tmp_path / "state").exists()
