"""A language model whose layers lie on two devices has the results of one device."""

import pytest
import torch
from torch.utils._pytree import tree_map

from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model.layers import repeated_layers
from tests import tiny
from tests.evaluation.fake import model_and_processor
from tests.helpers import pretend_device
from tests.helpers.forked import values_of_processes
from tests.inference.test_lockstep import CANDIDATES, prompts

#: The device of the gated block of each layer.
ON_TWO = {"1": "cpu", "3": "pretend"}


def spread(model, device):
    """Moves the last layers, the norm and the head to a device. Calls move their inputs there, as accelerate's do.

    The logits come back to the device of the inputs.
    """
    language_model = model.language_model
    for module in (*repeated_layers(language_model)[2:], language_model.model.norm, language_model.lm_head):
        module.to(device)
        run = module.forward

        def moved(*args, run=run, **kwargs):
            args, kwargs = tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, (args, kwargs))
            return run(*args, **kwargs)

        module.forward = moved

    def returned(_, __, outputs):
        outputs.logits = outputs.logits.to("cpu")

    language_model.register_forward_hook(returned)
    language_model.hf_device_map = {}
    model.place(torch.device("cpu"))
    blocks = getattr(model.fusion, "blocks", {})
    assert {name: next(block.parameters()).device.type for name, block in blocks.items()} in ({}, ON_TWO)


@pytest.mark.full
@pytest.mark.parametrize("fusion", [{"gates": 0.3}, tiny.PREFIX], ids=["cross_attention", "prefix"])
def test_layers_on_two_devices_have_the_results_of_one(backbones, fusion):
    model, processor = model_and_processor(backbones, "llama", **fusion)

    def results():
        engine = FlamingoEngine(model, processor, 2)
        beams = engine.generate(prompts(4), 6, num_beams=3)
        return engine.generate(prompts(4), 6), beams, engine.score(prompts(4), [CANDIDATES] * 4)

    def on_two():
        spread(model, pretend_device.start())
        return results()

    [(*texts, scores)] = values_of_processes(1, on_two)
    *expected, expected_scores = results()
    assert texts == expected
    for found, one in zip(scores, expected_scores, strict=True):
        assert found.sums == pytest.approx(one.sums, abs=1e-4)
