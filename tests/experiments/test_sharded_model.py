"""From a config's model to the model that several processes share."""

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from experiments.schema import ModelConfig
from experiments.setup.build import build_model
from experiments.setup.checked_model import check_saving
from flamingo.model.sharded_loading import is_deferred
from flamingo.training import ParallelConfig
from flamingo.training.parallel import distribute
from tests import tiny
from tests.helpers.configs import composed
from tests.helpers.forked import values_of_processes
from tests.model.test_sharded_loading import assert_equal

LORA = ("model/adapter=lora", "model.adapter.settings.target_modules=[q_proj,v_proj]")


def config(backbones, *overrides):
    small = [f"model.{part}.{key}={value}" for part, sizes in tiny.PARTS.items() for key, value in sizes.items()]
    paths = (f"model.vision={backbones / 'clip_vision_model'}", f"model.language={backbones / 'qwen2'}")
    return composed("train", *paths, *small, *overrides).model


def shared_like_whole(model_config: ModelConfig, parallel: ParallelConfig) -> None:
    """Checks that the processes share the weights that each of them would have alone."""
    torch.manual_seed(0)
    expected, _ = build_model(model_config, "bfloat16")
    torch.manual_seed(0)
    model, _ = build_model(model_config, "bfloat16", shards=True)
    assert is_deferred(model.language_model)
    check_saving(model, include_backbones=False)
    distribute(model, parallel)
    assert isinstance(model, FSDPModule)
    assert_equal(model, expected)
    assert model.trainable_parameter_names() == expected.trainable_parameter_names()
    check_saving(model, include_backbones=False)


@pytest.mark.full
@pytest.mark.parametrize("overrides", [(), LORA, ("model.trainable=[connector,fusion,new_tokens,language_model]",)])
@pytest.mark.parametrize(
    ("number", "parallel"), [(3, ParallelConfig("fsdp2")), (4, ParallelConfig("hsdp", shard_size=2))]
)
def test_processes_share_the_weights_of_one(backbones, overrides, number, parallel):
    """The rows of most weights do not divide by three."""
    values_of_processes(number, shared_like_whole, config(backbones, *overrides), parallel)


def begun_with_checkpoint(backbones, folder, include_backbones):
    """Saves a checkpoint, and returns the config of a model that begins with it."""
    model = tiny.flamingo(backbones, language="qwen2")
    model.save_pretrained(folder / "checkpoint", include_backbones=include_backbones)
    build_model(config(backbones))[1].save_pretrained(folder / "checkpoint")
    keys = (f"model.init_from={folder}", "model.vision=checkpoint", "model.language=checkpoint")
    return composed("train", *keys).model


@pytest.mark.full
def test_a_checkpoint_with_its_backbones_is_loaded_whole(backbones, tmp_path, caplog):
    model, _ = build_model(begun_with_checkpoint(backbones, tmp_path, include_backbones=True), shards=True)
    assert not is_deferred(model.language_model)
    assert str(tmp_path) in caplog.text


@pytest.mark.full
def test_the_model_of_init_from_is_shared(backbones, tmp_path):
    model_config = begun_with_checkpoint(backbones, tmp_path, include_backbones=False)
    values_of_processes(2, shared_like_whole, model_config, ParallelConfig("fsdp2"))
