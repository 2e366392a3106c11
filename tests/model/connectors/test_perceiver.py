"""The Perceiver Resampler against a reference computed here from the paper's formulas, one image at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flamingo.model.config import ResamplerConfig
from flamingo.model.connectors.perceiver import PerceiverResampler, make_resampler
from flamingo.utils.errors import UserError


def make(**config):
    resampler = PerceiverResampler(12, ResamplerConfig(depth=2, latents=3, heads=2, head_width=4, **config))
    for name, parameter in resampler.named_parameters():
        parameter.data.normal_(mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.5)
    return resampler


def layer_norm(x, norm):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * norm.weight + (
        norm.bias
    )


def rms_norm(x, norm):
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * norm.weight


def normed(x, norm):
    return rms_norm(x, norm) if isinstance(norm, nn.RMSNorm) else layer_norm(x, norm)


def attention(queries, context, layer, qk_norm):
    """softmax(q k^T / sqrt(e)) v, head by head."""
    outputs = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        q, k, v = (
            x @ w.weight[rows].T for x, w in ((queries, layer.to_q), (context, layer.to_k), (context, layer.to_v))
        )
        if qk_norm:
            q, k = normed(q, layer.q_norm), normed(k, layer.k_norm)
        outputs.append((q @ k.T / 4**0.5).softmax(-1) @ v)
    return torch.cat(outputs, -1) @ layer.to_out.weight.T


def reference(resampler, features, activation, qk_norm):
    """Features [f p v] of one image -> [r v]."""
    if resampler.frame_embeddings is not None:
        features = torch.stack([frame + resampler.frame_embeddings[i] for i, frame in enumerate(features)])
    flat = features.reshape(-1, features.shape[-1])
    latents = resampler.latents
    for layer in resampler.layers:
        queries = layer_norm(latents, layer.norm_latents)
        context = torch.cat([layer_norm(flat, layer.norm_features), queries])
        latents = latents + attention(queries, context, layer.attention, qk_norm)
        hidden = layer_norm(latents, layer.feedforward.norm) @ layer.feedforward.up.weight.T
        latents = latents + activation(hidden) @ layer.feedforward.down.weight.T
    return layer_norm(latents, resampler.norm)


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, lambda x: x.clamp(min=0) ** 2),
        ({"activation": "gelu"}, F.gelu),
        ({"qk_norm": True}, lambda x: x.clamp(min=0) ** 2),
        ({"qk_norm": True, "qk_norm_kind": "layer", "activation": "relu"}, lambda x: x.clamp(min=0)),
        ({"frames": 2}, lambda x: x.clamp(min=0) ** 2),
    ],
    ids=["squared relu", "gelu", "qk_norm", "layer norm of queries and keys, relu", "frames"],
)
def test_it_equals_the_papers_formulas(config, activation):
    resampler = make(**config)
    features = torch.randn(2, 3, 2 if config.get("frames") else 1, 5, 12)
    visual_tokens = resampler(features)
    assert visual_tokens.shape == (2, 3, 3, 12)
    for b in range(2):
        for m in range(3):
            expected = reference(resampler, features[b, m], activation, config.get("qk_norm", False))
            torch.testing.assert_close(visual_tokens[b, m], expected, atol=1e-5, rtol=1e-4)


def test_frame_embeddings_are_stretched_for_more_frames_and_cut_for_fewer():
    resampler = make(frames=3)
    trained = resampler.frame_embeddings
    assert torch.equal(resampler._embeddings_of(2), trained[:2])
    expected = torch.stack([trained[0], trained[:2].mean(0), trained[1], trained[1:].mean(0), trained[2]])
    torch.testing.assert_close(resampler._embeddings_of(5), expected)


def test_several_frames_without_frame_embeddings_are_refused():
    with pytest.raises(UserError, match=r"2 frames.*resampler\.frames"):
        make()(torch.randn(1, 1, 2, 5, 12))


def test_dropout_of_features_and_of_what_layers_add_is_for_training_alone():
    resampler, features = make(dropout=0.4), torch.randn(1, 2, 1, 50, 12)
    seen = []
    layer = resampler.layers[0]
    layer.norm_features.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    one, other = resampler(features), resampler(features)
    assert (one - other).abs().max() > 1e-3
    assert 0.35 < (seen[0] == 0).float().mean() < 0.45
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0], kept * features[0, :, 0] / 0.6)
    dropped = []
    layer.dropout.register_forward_hook(lambda module, args, output: dropped.append((output == 0).float().mean()))
    resampler(features)
    assert len(dropped) == 2 and all(0.2 < share < 0.6 for share in dropped)
    assert torch.equal(resampler.eval()(features), resampler(features))


def make_patch_layers(kind, **config):
    layers = make_resampler(12, ResamplerConfig(kind=kind, depth=2, heads=2, head_width=4, **config))
    for name, parameter in layers.named_parameters():
        parameter.data.normal_(mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.5)
    return layers


def dense(feedforward, x):
    return (layer_norm(x, feedforward.norm) @ feedforward.up.weight.T).clamp(min=0) ** 2 @ feedforward.down.weight.T


@pytest.mark.parametrize("kind", ["transformer", "mlp", "none"])
def test_what_stands_in_the_perceivers_place_equals_its_formulas(kind):
    layers, features = make_patch_layers(kind), torch.randn(2, 3, 1, 5, 12)
    visual_tokens = layers(features)
    assert visual_tokens.shape == (2, 3, 5, 12)
    for b in range(2):
        for m in range(3):
            x = features[b, m, 0]
            for layer in layers.layers:
                if kind == "transformer":
                    context, heads = layer_norm(x, layer.norm_latents), []
                    for head in range(2):
                        rows = slice(4 * head, 4 * head + 4)
                        q, k, v = (
                            context @ getattr(layer.attention, part).weight[rows].T for part in ("to_q", "to_k", "to_v")
                        )
                        heads.append((q @ k.T / 2).softmax(-1) @ v)
                    x = x + torch.cat(heads, dim=-1) @ layer.attention.to_out.weight.T
                x = x + dense(layer.feedforward if kind == "transformer" else layer, x)
            torch.testing.assert_close(visual_tokens[b, m], layer_norm(x, layers.norm), atol=1e-4, rtol=1e-4)
    assert len(layers.layers) == (0 if kind == "none" else 2)


def test_patches_of_several_frames_are_refused():
    with pytest.raises(UserError, match=r"2.*resampler\.kind=perceiver"):
        make_patch_layers("mlp")(torch.randn(1, 1, 2, 5, 12))
    with pytest.raises(UserError, match=r"^frames .*2.*mlp"):
        ResamplerConfig(kind="mlp", frames=2)
