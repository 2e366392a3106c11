"""Which modules are gathered by themselves, and when."""

import pytest
import torch
from torch.distributed.tensor import DTensor

from flamingo.training import ParallelConfig
from flamingo.training.losses.next_token import next_token
from flamingo.training.parallel import distribute
from flamingo.training.sharding import gathered, sharded_modules
from flamingo.utils.devices import processes
from flamingo.utils.shards import whole
from tests import tiny
from tests.helpers.forked import values_of_processes
from tests.training.runs import batch

FSDP2 = ParallelConfig("fsdp2")


def make_model(backbones, **parts):
    torch.manual_seed(0)
    return tiny.flamingo(backbones, "qwen2", **parts, gates=None if parts else 0.3).train()


def is_sharded(module):
    return isinstance(next(module.parameters()), DTensor)


@pytest.mark.full
def test_layers_blocks_and_connector_are_gathered_by_themselves(backbones):
    def names(config, **parts):
        model = make_model(backbones, **parts)
        distribute(model, config)
        modules = {id(module): name for name, module in model.named_modules()}
        local = sum(parameter.to_local().numel() for parameter in model.language_model.parameters())
        found = [modules[id(module)] for module in sharded_modules(model)]
        return sorted(found), local / sum(parameter.numel() for parameter in model.language_model.parameters())

    layers = [f"language_model.model.layers.{number}" for number in range(4)]
    blocks = []
    for block in ("fusion.blocks.1", "fusion.blocks.3"):
        blocks += [block, f"{block}.attention.to_k", f"{block}.attention.to_v"]
    encoder = [f"vision_model.encoder.layers.{number}" for number in range(3)]
    for found, fraction in values_of_processes(2, names, FSDP2):
        assert found == sorted(["", "connector", *blocks, *layers])
        assert fraction == pytest.approx(0.5, abs=0.01)
    for found, _ in values_of_processes(2, lambda: names(ParallelConfig("fsdp2", shard_vision_model=True))):
        assert found == sorted(["", "connector", *blocks, *layers, *encoder])
    for found, _ in values_of_processes(2, lambda: names(FSDP2, **tiny.PREFIX)):
        assert found == sorted(["", "connector", *layers])


@pytest.mark.full
def test_a_block_computes_before_its_layer_is_gathered(backbones):
    def states():
        model = make_model(backbones)
        distribute(model, FSDP2)
        layer, found = model.language_model.model.layers[1], []
        model.fusion.blocks["1"].feedforward.up.register_forward_hook(lambda *_: found.append(is_sharded(layer)))
        layer.mlp.register_forward_hook(lambda *_: found.append(is_sharded(layer)))
        next_token(model, batch([3]), 1)
        return found

    assert values_of_processes(2, states) == [[True, False]] * 2


@pytest.mark.full
def test_each_process_may_call_a_gathered_model_as_it_likes(backbones):
    """The main process generates, then all have the gradients as before, and the layers are sharded again."""

    def calls():
        model = make_model(backbones)
        distribute(model, FSDP2)
        layer = model.language_model.model.layers[1]
        found = []
        for _ in range(2):
            model.zero_grad()
            next_token(model, batch([3]), 1).backward()
            found.append({name: whole(p.grad) for name, p in model.named_parameters() if p.requires_grad})
            with gathered(model), torch.no_grad():
                tokens = None
                if processes().is_main_process:
                    model.eval()
                    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
                    model.train()
            assert is_sharded(layer)
        return found, tokens

    alone = make_model(backbones).eval()
    expected = alone.generate(torch.tensor([[5, 6]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    for rank, ((first, second), tokens) in enumerate(values_of_processes(2, calls)):
        assert all(torch.equal(gradient, second[name]) for name, gradient in first.items())
        assert rank == 1 or torch.equal(tokens, expected)
