"""The initial values of the trained parts."""

import pytest
import torch

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.model.initialization import initialize
from tests import tiny
from tests.helpers import devices


@pytest.fixture
def fresh(backbones):
    config = tiny.flamingo(backbones, connector={"num_frames": 4, "num_latents": 40, "qk_norm": True}).config
    return FlamingoForConditionalGeneration(FlamingoConfig.from_dict(config.to_dict()))


def test_every_trained_parameter_gets_its_distribution(fresh):
    for name, parameter in fresh.named_parameters():
        if not parameter.requires_grad:
            continue
        last, parameter = name.rsplit(".", 1)[-1], parameter.detach()
        if last.endswith("_gate") or last == "bias":
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            std = {"latents": 1.0, "frame_embeddings": 0.02, "input_rows": 0.02, "output_rows": 0.02}.get(last)
            assert parameter.std() == pytest.approx(std or parameter.shape[1] ** -0.5, rel=0.3), name
            assert abs(parameter.mean()) < 0.3 * parameter.std(), name


def test_composing_and_initialising_keep_backbone_weights(backbones):
    from transformers import AutoModel, AutoModelForCausalLM

    model = tiny.flamingo(backbones, language="llama")
    language_model = AutoModelForCausalLM.from_pretrained(backbones / "llama").to(devices.DEVICE)
    vision_model = AutoModel.from_pretrained(backbones / "clip_vision_model").to(devices.DEVICE)
    for ours, theirs in ((model.language_model, language_model), (model.vision_model, vision_model)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())


def test_a_module_whose_parameters_nobody_initialises_is_refused():
    with pytest.raises(NotImplementedError, match="Conv2d"):
        initialize(torch.nn.Conv2d(2, 2, 3))
    initialize(torch.nn.Sequential(torch.nn.GELU()))
