"""The Perceiver Resampler against a reference computed here from the paper's formulas, one image at a time."""

import pytest
import torch
from torch.nn import functional as F

from flamingo.model.connectors import PerceiverConfig
from flamingo.model.connectors.perceiver import PerceiverResampler, frame_embeddings_for
from flamingo.utils.errors import UserError
from tests.helpers.references import attention, feedforward, layer_norm, randomize, squared_relu


def make(**config):
    return randomize(
        PerceiverResampler(
            PerceiverConfig(depth=2, num_latents=3, num_heads=2, head_dim=4, **config), vision_width=12, text_width=8
        )
    )


def reference(connector, features, activation, qk_norm):
    """Features [f p v] of one image -> [r v]."""
    if connector.frame_embeddings is not None:
        features = torch.stack([frame + connector.frame_embeddings[i] for i, frame in enumerate(features)])
    flat = features.reshape(-1, features.shape[-1])
    latents = connector.latents
    for layer in connector.layers:
        queries = layer_norm(latents, layer.norm_latents)
        context = torch.cat([layer_norm(flat, layer.norm_features), queries])
        latents = latents + attention(queries, context, layer.attention, qk_norm)
        latents = latents + feedforward(latents, layer.feedforward, activation)
    return layer_norm(latents, connector.norm)


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, squared_relu),
        ({"activation": "gelu"}, F.gelu),
        ({"qk_norm": True}, squared_relu),
        ({"qk_norm": True, "qk_norm_kind": "layer", "activation": "relu"}, lambda x: x.clamp(min=0)),
        ({"num_frames": 2}, squared_relu),
    ],
    ids=["squared relu", "gelu", "qk_norm", "layer norm of queries and keys, relu", "frames"],
)
def test_it_equals_the_papers_formulas(config, activation):
    connector = make(**config)
    features = torch.randn(2, 3, 2 if config.get("num_frames") else 1, 5, 12)
    visual_tokens = connector(features)
    assert visual_tokens.shape == (2, 3, 3, 12)
    for b in range(2):
        for m in range(3):
            expected = reference(connector, features[b, m], activation, config.get("qk_norm", False))
            torch.testing.assert_close(visual_tokens[b, m], expected, atol=1e-5, rtol=1e-4)


def test_it_states_the_number_and_the_width_of_its_visual_tokens():
    connector = make()
    assert (connector.num_tokens(patches=50, frames=4), connector.width) == (3, 12)


def test_frame_embeddings_are_stretched_or_cut_to_the_frames():
    trained = torch.randn(3, 12)
    assert torch.equal(frame_embeddings_for(trained, 2), trained[:2])
    expected = torch.stack([trained[0], trained[:2].mean(0), trained[1], trained[1:].mean(0), trained[2]])
    torch.testing.assert_close(frame_embeddings_for(trained, 5), expected)


def test_several_frames_without_frame_embeddings_are_refused():
    with pytest.raises(UserError, match=r"2 frames.*connector\.num_frames"):
        make()(torch.randn(1, 1, 2, 5, 12))


def test_dropout_of_features_and_layers_acts_in_training_alone():
    connector, features = make(dropout=0.4), torch.randn(1, 2, 1, 50, 12)
    seen = []
    layer = connector.layers[0]
    layer.norm_features.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    one, other = connector(features), connector(features)
    assert (one - other).abs().max() > 1e-3
    assert 0.35 < (seen[0] == 0).float().mean() < 0.45
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0], kept * features[0, :, 0] / 0.6)
    dropped = []
    layer.dropout.register_forward_hook(lambda module, args, output: dropped.append((output == 0).float().mean()))
    connector(features)
    assert len(dropped) == 2 and all(0.2 < share < 0.6 for share in dropped)
    assert torch.equal(connector.eval()(features), connector(features))


def test_reset_parameters_sets_only_latents_and_frame_embeddings():
    connector = make(num_frames=200)
    before = {name: parameter.clone() for name, parameter in connector.named_parameters()}
    connector.reset_parameters()
    changed = {name for name, parameter in connector.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"latents", "frame_embeddings"}
    assert connector.frame_embeddings.std().item() == pytest.approx(0.02, rel=0.2)
