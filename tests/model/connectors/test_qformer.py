"""The Q-Former against transformers' Blip2QFormerModel."""

import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from flamingo.model.connectors import QFormerConfig
from flamingo.model.connectors.qformer import QFormer
from flamingo.utils.errors import UserError
from tests.helpers import devices
from tests.helpers.references import layer_norm, randomize

#: Names of the weights of a layer: ours and theirs.
NAMES = {
    "self_attention.to_q": "attention.attention.query",
    "self_attention.to_k": "attention.attention.key",
    "self_attention.to_v": "attention.attention.value",
    "self_attention.to_out": "attention.output.dense",
    "self_norm": "attention.output.LayerNorm",
    "cross_attention.to_q": "crossattention.attention.query",
    "cross_attention.to_k": "crossattention.attention.key",
    "cross_attention.to_v": "crossattention.attention.value",
    "cross_attention.to_out": "crossattention.output.dense",
    "cross_norm": "crossattention.output.LayerNorm",
    "up": "intermediate_query.dense",
    "down": "output_query.dense",
    "norm": "output_query.LayerNorm",
}


def make(**values):
    config = QFormerConfig(**{"depth": 3, "num_query_tokens": 5, "width": 16, "num_heads": 2} | values)
    return randomize(QFormer(config, vision_width=12, text_width=8), std=0.3).eval()


def theirs_with_weights_of(connector, every):
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=len(connector.layers),
        num_attention_heads=2,
        intermediate_size=64,
        encoder_hidden_size=12,
        cross_attention_frequency=every,
        use_qformer_text_input=False,
    )
    model = Blip2QFormerModel(config).eval().to(devices.DEVICE)
    weights = {f"layernorm.{kind}": getattr(connector.norm_queries, kind) for kind in ("weight", "bias")}
    for name, value in connector.layers.state_dict().items():
        index, _, rest = name.partition(".")
        module, _, kind = rest.rpartition(".")
        weights[f"encoder.layer.{index}.{NAMES[module]}.{kind}"] = value
    missing = model.load_state_dict(weights, strict=True)
    assert not missing.missing_keys
    return model


@pytest.mark.parametrize("every", [1, 2])
def test_it_equals_the_queries_of_transformers_qformer(every):
    connector = make(cross_attention_every=every)
    features = torch.randn(2, 3, 1, 7, 12)
    tokens = connector(features)
    assert tokens.shape == (2, 3, 5, 16)
    model = theirs_with_weights_of(connector, every)
    patches = layer_norm(features[:, :, 0].flatten(0, 1), connector.norm_features)
    expected = model(query_embeds=connector.queries.expand(6, -1, -1), encoder_hidden_states=patches).last_hidden_state
    torch.testing.assert_close(tokens.flatten(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_its_width_and_number_of_tokens_are_its_own():
    connector = make()
    assert connector.width == 16
    assert connector.num_tokens(patches=49, frames=1) == 5


def test_the_defaults_are_those_of_blip2():
    ours, theirs = QFormerConfig(), Blip2QFormerConfig()
    assert (ours.depth, ours.width, ours.num_heads) == (
        theirs.num_hidden_layers,
        theirs.hidden_size,
        theirs.num_attention_heads,
    )
    assert ours.mlp_ratio * ours.width == theirs.intermediate_size
    assert ours.cross_attention_every == theirs.cross_attention_frequency
    assert (ours.activation, ours.num_query_tokens) == (theirs.hidden_act, 32)


def test_reset_draws_the_queries_alone():
    connector = make()
    before = {name: parameter.clone() for name, parameter in connector.named_parameters()}
    connector.reset_parameters()
    changed = [name for name, parameter in connector.named_parameters() if not torch.equal(parameter, before[name])]
    assert changed == ["queries"]
    assert connector.queries.std() < 0.05


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"^width .*num_heads"):
        QFormerConfig(width=10, num_heads=3)


def test_several_frames_are_refused():
    with pytest.raises(UserError, match="2 frames"):
        make()(torch.randn(1, 1, 2, 4, 12))
