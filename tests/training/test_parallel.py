"""Several processes have the gradients, the norm and the steps of one process that gets all of their batches."""

from functools import partial

import pytest
import torch

from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import add_adapter
from flamingo.training import ParallelConfig
from flamingo.training.activations import recompute_activations
from flamingo.training.parallel import distribute
from flamingo.training.speed import Speed
from flamingo.training.step import DataSet, accumulate_gradients, next_update
from flamingo.utils.devices import processes
from flamingo.utils.shards import whole
from tests import tiny
from tests.helpers.forked import values_of_processes
from tests.training.runs import Listed, batch

FSDP2 = ParallelConfig("fsdp2")
ENGINES = {
    "ddp": ParallelConfig("ddp"),
    "fsdp2": FSDP2,
    "two copies": ParallelConfig("hsdp", shard_size=1),
    "one copy": ParallelConfig("hsdp", shard_size=2),
    "kept gathered": ParallelConfig("fsdp2", reshard_after_forward=False),
    "scattered": ParallelConfig("fsdp2", scatter_every_batch=True),
    "encoder": ParallelConfig("fsdp2", shard_vision_model=True),
}
MARKERS = tiny.TOKENS_PER_IMAGE


def make_model(backbones, text="gpt2", **parts):
    torch.manual_seed(0)
    return tiny.flamingo(backbones, text, **parts, gates=None if parts else 0.3).double().train()


def with_adapter(backbones):
    model = make_model(backbones, "llama")
    settings = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}
    add_adapter(model, AdapterConfig("lora", "language_model", settings))
    return model.double()


def with_trained_encoder(backbones):
    model = make_model(backbones)
    model.train_parts(["vision_model", "connector", "fusion", "new_tokens"])
    return model


def recomputing(backbones):
    model = make_model(backbones)
    recompute_activations(model)
    return model


MODELS = {
    "tied": make_model,
    "untied": partial(make_model, text="llama"),
    "prefix": partial(make_model, **tiny.PREFIX),
    "adapter": with_adapter,
    "trained encoder": with_trained_encoder,
    "recomputing": recomputing,
}


def shares(model):
    """Batches for each of two processes. Those of process 1 have no image; those of the second data set have none."""
    markers = model.fusion.tokens_per_image(MARKERS)
    pairs = [batch([3, 7, 11], images=1, markers=markers), batch([4], images=0)]
    more = [batch([8], images=1, markers=markers), batch([15, 16], images=1, markers=markers)]
    texts = [batch([1, 2], images=0), batch([5], images=0)]
    return [("pairs", pairs, 0.5), ("more", more, 1.0), ("texts", texts, 0.2)]


def gradients_of(model, config, max_grad_norm=1e9):
    """The clipped gradients of one step, their norm before, and the losses of all processes."""
    parallel = distribute(model, config)
    state = processes()
    sets = []
    for name, batches, weight in shares(model):
        own = batches if state.num_processes == 1 else [batches[state.process_index]]
        sets.append(DataSet(name, Listed(*own), weight))
    iterators = {data_set.name: iter(data_set.batches) for data_set in sets}
    update = next_update(sets, iterators, 1, 2 // state.num_processes, "accumulated")
    losses = accumulate_gradients(parallel, update, "fp32", Speed(torch.device("cpu")))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = parallel.clip(parameters, max_grad_norm)
    found = {name: whole(p.grad) for name, p in model.named_parameters() if p.requires_grad}
    return found, norm, parallel.summed(torch.stack(losses).sum())


def assert_equal_steps(actual, expected):
    gradients, norm, loss = actual
    expected_gradients, expected_norm, expected_loss = expected
    assert gradients.keys() == expected_gradients.keys()
    torch.testing.assert_close(norm, expected_norm, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        error = (gradient - expected_gradients[name]).norm()
        assert error <= 1e-6 * expected_gradients[name].norm().clamp(min=1e-6 * expected_norm), name


def test_two_sharded_processes_have_the_gradients_of_one(backbones):
    model = make_model(backbones)
    both = values_of_processes(2, gradients_of, model, FSDP2, 0.01)
    expected = gradients_of(model, FSDP2, 0.01)
    assert expected[1] > 0.1
    for one in both:
        assert_equal_steps(one, expected)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
def test_each_engine_has_the_gradients_of_one_process(backbones, engine, kind):
    model = MODELS[kind](backbones)
    both = values_of_processes(2, gradients_of, model, ENGINES[engine], 0.01)
    for one in both:
        assert_equal_steps(one, gradients_of(MODELS[kind](backbones), FSDP2, 0.01))
