"""Connectors that keep one visual token per patch, against the formulas of their layers."""

import pytest
import torch

from flamingo.model.connectors import CONNECTORS, PerceiverConfig
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of, load_kind
from tests.helpers.references import attention, feedforward, layer_norm, randomize

SIZES = {
    "transformer": {"depth": 2, "num_heads": 2, "head_dim": 4},
    "mlp": {"depth": 2},
    "identity": {},
}


def make(kind, **config):
    values = {"kind": kind} | SIZES[kind] | config
    config = load_kind(CONNECTORS, values, "connector")
    return randomize(class_of(CONNECTORS, kind)(config, vision_width=12, text_width=8))


def transformer(x, connector):
    for layer in connector.layers:
        queries = layer_norm(x, layer.norm)
        x = x + attention(queries, queries, layer.attention)
        x = x + feedforward(x, layer.feedforward)
    return x


def mlp(x, connector):
    for layer in connector.layers:
        x = x + feedforward(x, layer)
    return x


def identity(x, connector):
    return x


@pytest.mark.parametrize("layers", [transformer, mlp, identity])
def test_it_equals_the_formulas_of_its_layers(layers):
    connector, features = make(layers.__name__), torch.randn(2, 3, 1, 5, 12)
    visual_tokens = connector(features)
    assert visual_tokens.shape == (2, 3, 5, 12)
    for b in range(2):
        for m in range(3):
            expected = layer_norm(layers(features[b, m, 0], connector), connector.norm)
            torch.testing.assert_close(visual_tokens[b, m], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_the_depth_is_the_number_of_layers(kind):
    assert len(make(kind, depth=3).layers) == 3


@pytest.mark.parametrize("kind", SIZES)
def test_it_states_the_number_and_the_width_of_its_visual_tokens(kind):
    connector = make(kind)
    assert (connector.num_tokens(patches=50, frames=1), connector.width) == (50, 12)


@pytest.mark.parametrize("kind", SIZES)
def test_several_frames_are_refused(kind):
    with pytest.raises(UserError, match=r"2 frames.*connector\.kind=perceiver"):
        make(kind)(torch.randn(1, 1, 2, 5, 12))
    with pytest.raises(UserError, match=r"connector\.num_frames"):
        make(kind, num_frames=2)


@pytest.mark.parametrize("kind", SIZES)
def test_a_connector_owns_only_the_parameters_of_its_layers(kind):
    connector = make(kind)
    before = [parameter.clone() for parameter in connector.parameters()]
    connector.reset_parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, connector.parameters(), strict=True))
    assert not list(connector.parameters(recurse=False))


def test_keys_of_one_kind_under_the_name_of_another_are_refused():
    with pytest.raises(UserError, match=r"^kind is mlp.*PerceiverConfig"):
        PerceiverConfig(kind="mlp")
    with pytest.raises(UserError, match=r"^kind .*'resampler'"):
        PerceiverConfig(kind="resampler")
