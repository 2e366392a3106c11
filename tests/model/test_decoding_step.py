"""Decoding steps in buffers that stay in place give what plain steps give, and read nothing on the host."""

import pytest
import torch

from flamingo.model import generation
from flamingo.model.decoding_step import DecodingStep
from tests import tiny
from tests.helpers.host_reads import HostReads
from tests.helpers.model_calls import BEAMS, FULL_ATTENTION, GREEDY
from tests.model.fusion.test_prefix_properties import ragged as ragged_prefix
from tests.model.test_generation import ragged

SCORES = {"return_dict_in_generate": True, "output_logits": True}


@pytest.fixture
def in_place(monkeypatch):
    """Lets this device run its steps in place, as a CUDA device does. Returns the steps that were made."""
    made = []

    class Noted(DecodingStep):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(generation, "is_cuda", lambda device: True)
    monkeypatch.setattr(generation, "DecodingStep", Noted)
    return made


def both_ways(model, monkeypatch, **arguments):
    """Generates with plain steps, and with steps in place."""
    with monkeypatch.context() as patch:
        patch.setattr(generation, "is_cuda", lambda device: False)
        plain = model.generate(**arguments, **SCORES)
    return plain, model.generate(**arguments, **SCORES)


def assert_equal(one, other):
    assert torch.equal(one.sequences, other.sequences)
    for logits, others in zip(one.logits, other.logits, strict=True):
        torch.testing.assert_close(logits, others, atol=1e-5, rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_steps_in_place_equal_plain_steps(model, family, settings, in_place, monkeypatch):
    # MPT's own setting of use_cache is False.
    assert_equal(*both_ways(model, monkeypatch, **ragged(), **settings, use_cache=True))
    assert len(in_place) == (family in FULL_ATTENTION)


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_prefix_of_visual_tokens_is_decoded_in_place(backbones, settings, in_place, monkeypatch):
    model = tiny.flamingo(backbones, "llama", **tiny.PREFIX)
    assert_equal(*both_ways(model, monkeypatch, **ragged_prefix(), **settings))
    assert len(in_place) == 1


def test_prompts_of_the_same_shapes_share_a_step(gpt2, in_place, monkeypatch):
    """The second prompts have other images and other lengths; the buffers hold stale tokens of the first."""
    gpt2.generate(**ragged(), **BEAMS)
    others = {name: tensor[:, 2:] if tensor.ndim == 2 else tensor.flip(0) for name, tensor in ragged().items()}
    assert_equal(*both_ways(gpt2, monkeypatch, **others, **BEAMS))
    assert len(in_place) == 1


def test_weights_in_other_places_get_a_new_step(gpt2, in_place, monkeypatch):
    gpt2.generate(**tiny.inputs(), **GREEDY)
    gpt2.connector.requires_grad_(False)
    for parameter in gpt2.connector.parameters():
        parameter.data = parameter.data * 1.5
    assert_equal(*both_ways(gpt2, monkeypatch, **tiny.inputs(), **GREEDY))
    assert len(in_place) == 2


def test_hidden_states_need_plain_steps(gpt2, in_place):
    states = {"return_dict_in_generate": True, "output_hidden_states": True}
    out = gpt2.generate(**tiny.inputs(), **GREEDY, **states)
    assert len(out.hidden_states) == 8 and not in_place


def test_a_step_reads_nothing_and_moves_nothing(gpt2, in_place, monkeypatch):
    """What a graph of kernels needs: the same addresses in each call, and no wait for the device."""
    addresses, reads = [], HostReads(monkeypatch)
    reads.counts = False
    plain_call = DecodingStep.__call__
    plain_forward = DecodingStep._forward

    def forward(self):
        reads.counts = True
        logits = plain_forward(self)
        reads.counts = False
        return logits

    def call(self, *arguments):
        kept = [self._ids, self._positions, self._mask, self._places, self._image_index]
        for tensors in self._state:
            kept += tensors
        for layer in self._layers:
            kept += [layer.keys, layer.values]
        addresses.append([tensor.data_ptr() for tensor in kept])
        return plain_call(self, *arguments)

    monkeypatch.setattr(DecodingStep, "_forward", forward)
    monkeypatch.setattr(DecodingStep, "__call__", call)
    with reads:
        gpt2.generate(**ragged(), **BEAMS)
    assert len(addresses) == 8 and all(one == addresses[0] for one in addresses)
    assert not reads.found["ours"] and not reads.found["transformers"] and not reads.found["others"]
