"""Every family of language models, and encoders and connectors of all kinds, train in shards as in one process."""

import pytest

from flamingo.model.adapter_config import AdapterConfig
from flamingo.training import ParallelConfig
from flamingo.training.optim import AdamWConfig
from tests import tiny
from tests.training.parallel.cases import dealt, in_float64, pairs
from tests.training.parallel.comparison import errors
from tests.training.parallel.recorded_run import run_alone, run_together

pytestmark = pytest.mark.full

OPTIMIZER = AdamWConfig(lr=1e-3)
STEPS = 3


def assert_two_are_one(model, output):
    training = dealt(in_float64(model), pairs(images=lambda number: 1 - number % 2))
    expected = run_alone(training, OPTIMIZER, STEPS, output / "alone")
    actual = run_together(2, training, ParallelConfig("fsdp2"), OPTIMIZER, STEPS, output / "together")
    found = errors(actual, expected)
    assert max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("family", tiny.LANGUAGE_MODELS)
def test_every_frozen_language_model_is_sharded(backbones, tmp_path, family):
    assert_two_are_one(tiny.flamingo(backbones, family, gates=0.3), tmp_path)


@pytest.mark.parametrize("family", ["siglip_vision_model", "dinov2_with_registers", "vit", "resnet"])
def test_a_trained_encoder_is_sharded(backbones, tmp_path, family):
    model = tiny.flamingo(backbones, "gpt2", vision=family, gates=0.3)
    model.train_parts(["vision_model", "connector", "fusion", "new_tokens"])
    assert_two_are_one(model, tmp_path)


@pytest.mark.parametrize("connector", ["identity", "mlp_projector", "qformer"])
def test_a_connector_is_sharded(backbones, tmp_path, connector):
    settings = (tiny.PATCH_CONNECTORS | tiny.POOLING_CONNECTORS)[connector]
    assert_two_are_one(tiny.flamingo(backbones, "gpt2", gates=0.3, connector=settings), tmp_path)


def test_an_adapter_of_the_encoder_is_sharded(backbones, tmp_path):
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    adapter = AdapterConfig("lora", "vision_model", settings)
    assert_two_are_one(tiny.flamingo(backbones, "gpt2", gates=0.3, adapter=adapter), tmp_path)
