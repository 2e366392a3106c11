"""A training with ``compile`` has the losses and weights of one without, also with sharded weights and checkpoints."""

from functools import partial

import pytest
import torch

from flamingo.model.compilation import compile_layers, is_compiled
from flamingo.training import DEFAULT_PARALLEL, ParallelConfig, TrainingConfig, loop
from tests.helpers.forked import values_of_processes
from tests.helpers.graphs import counted_graphs
from tests.training.runs import OPTIMIZER, data_sets, history, make_model, trained

pytestmark = pytest.mark.full


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    with counted_graphs(monkeypatch) as made:
        monkeypatch.setattr(loop, "compile_layers", partial(compile_layers, backend=made))
        yield made


def run(model, output, compiles, parallel=DEFAULT_PARALLEL):
    config = TrainingConfig(steps=3, log_every=1, compile=compiles)
    loop.train(model, data_sets(), OPTIMIZER, config, output, parallel=parallel)
    return [record["loss"] for record in history(output)]


def test_losses_and_weights_are_those_without_compilation(backbones, tmp_path):
    plain, compiled = make_model(backbones), make_model(backbones)
    losses = run(plain, tmp_path / "plain", compiles=False)
    assert run(compiled, tmp_path / "compiled", compiles=True) == pytest.approx(losses, rel=1e-5)
    assert is_compiled(compiled)
    assert not is_compiled(plain)
    weights = trained(compiled)
    for name, weight in trained(plain).items():
        torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_processes_compile_and_recompute_their_layers(backbones, tmp_path, kind):
    def losses_of_process(compiles):
        model = make_model(backbones)
        if compiles:
            model.gradient_checkpointing_enable()
        return run(model, tmp_path / str(compiles), compiles, ParallelConfig(kind=kind))

    plain = values_of_processes(2, losses_of_process, False)
    assert values_of_processes(2, losses_of_process, True)[0] == pytest.approx(plain[0], rel=1e-5)
