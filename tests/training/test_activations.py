"""training.checkpointing recomputes activations of layers and gated blocks, and changes no result."""

import pytest
import torch
from torch import nn

from flamingo.training.activations import recompute_activations
from flamingo.utils.errors import UserError
from tests.training.runs import history, make_model, trained
from tests.training.test_loop import run


def test_recomputed_activations_change_no_result(backbones, tmp_path):
    model, plain = make_model(backbones), make_model(backbones)
    passes = []
    layer, block = model.language_model.transformer.h[1], model.fusion.blocks["1"]
    # A recomputation ends before the last operation, whose result the backward pass does not need.
    layer.attn.register_forward_hook(lambda *_: passes.append("layer"))
    block.feedforward.register_forward_hook(lambda *_: passes.append("block"))
    run(model, tmp_path / "recomputed", steps=2, checkpointing=True)
    assert (passes.count("layer"), passes.count("block")) == (4, 4)
    run(plain, tmp_path / "kept", steps=2)
    assert history(tmp_path / "recomputed") == history(tmp_path / "kept")
    assert all(torch.equal(weight, trained(plain)[name]) for name, weight in trained(model).items())


def test_models_without_such_layers_are_refused():
    with pytest.raises(UserError, match=r"training\.checkpointing"):
        recompute_activations(nn.Linear(2, 2))
