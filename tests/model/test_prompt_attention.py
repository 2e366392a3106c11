"""The attention of the last token of prompts is that computed by hand, whatever the padding."""

import math

import pytest
import torch
from torch.nn import functional as F

from flamingo.model.inspection import inspect
from flamingo.model.prompt_attention import prompt_attention
from tests import tiny


def prompts(model, prefix=False):
    """Returns inputs of two prompts, of which the second is shorter, and those of each alone, without padding."""
    batch = tiny.prefix_inputs() if prefix else tiny.inputs()
    with torch.no_grad():
        batch["visual_tokens"] = model.encode_images(batch.pop("pixel_values"))
    texts = ("input_ids", "attention_mask", "image_index")
    alone = []
    for row in range(2):
        inputs = {name: batch[name][row : row + 1, row:] for name in texts}
        alone.append(inputs | {"visual_tokens": batch["visual_tokens"][row : row + 1]})
    batch["attention_mask"][1, 0] = 0
    batch["image_index"][1, 0] = -1
    return batch, alone


@torch.no_grad()
def weights_by_hand(model, layer, inputs):
    """The last token's weights, mean over heads, from queries and keys that rotate with their positions (RoFormer)."""
    attention = model.language_model.model.layers[layer].self_attn
    found = []
    hooks = [m.register_forward_hook(lambda *call: found.append(call[2])) for m in (attention.q_proj, attention.k_proj)]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    query, keys = (states[0].unflatten(-1, (-1, 8)) for states in found)
    angles = torch.arange(len(query))[:, None, None] / 10000 ** (torch.arange(4) / 4)

    def rotated(states):
        a, b = states.chunk(2, dim=-1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)

    scores = torch.einsum("ke,ske->ks", rotated(query)[-1], rotated(keys).repeat_interleave(2, dim=1))
    return (scores / math.sqrt(8)).softmax(dim=-1).mean(dim=0)


@pytest.mark.parametrize("config", [{}, tiny.PREFIX], ids=["cross_attention", "prefix"])
def test_self_attention_is_that_of_queries_and_keys(backbones, config):
    model = tiny.flamingo(backbones, language="llama", **config)
    batch, alone = prompts(model, prefix=bool(config))
    attention = prompt_attention(model, batch).self_attention
    assert list(attention) == [0, 1, 2, 3]
    assert model.language_model.config._attn_implementation == "sdpa"
    for layer, weights in attention.items():
        for row, inputs in enumerate(alone):
            expected = F.pad(weights_by_hand(model, layer, inputs), (row, 0))
            torch.testing.assert_close(weights[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attend", ["last", "previous"])
def test_gated_attention_is_that_computed_by_hand(backbones, attend):
    """Its contribution is what a block without feed-forward adds."""
    model = tiny.flamingo(backbones, language="llama", fusion={"attend": attend})
    model.fusion.blocks["1"].attention_gate.data.fill_(-0.3)
    batch, alone = prompts(model)
    attention = prompt_attention(model, batch)
    for row, inputs in enumerate(alone):
        for layer, weights in inspect(model, **inputs).image_attention.items():
            entropies = []
            for head in weights[0, :, -1].flatten(1).tolist():
                entropies.append(-sum(weight * math.log(weight) for weight in head if weight > 0))
            seen = 15 if attend == "previous" else 5
            expected = sum(entropies) / len(entropies) / math.log(seen)
            assert float(attention.gated_entropy[layer][row]) == pytest.approx(expected, rel=1e-4) and expected < 0.999
    calls = []
    for block in model.fusion.blocks.values():
        block.feedforward_gate.data.zero_()
        block.register_forward_hook(lambda block, args, output: calls.append((args[0], output)))
    attention = prompt_attention(model, batch)
    assert list(attention.gated_norm) == [1, 3]
    for ratio, (before, after) in zip(attention.gated_norm.values(), calls[-2:], strict=True):
        expected = (after - before)[:, -1].norm(dim=-1) / before[:, -1].norm(dim=-1)
        torch.testing.assert_close(ratio, expected, rtol=1e-3, atol=1e-5)


def test_a_single_visual_token_has_no_entropy(backbones):
    model = tiny.flamingo(backbones, language="llama", connector={"num_latents": 1})
    batch, _ = prompts(model)
    attention = prompt_attention(model, batch)
    assert torch.stack(list(attention.gated_entropy.values())).isnan().all()
    assert (attention.gated_norm[1] > 0).all()


@pytest.mark.full
@pytest.mark.parametrize("config", [{}, tiny.PREFIX], ids=["cross_attention", "prefix"])
@pytest.mark.parametrize("family", list(tiny.LANGUAGE_MODELS))
def test_self_attention_is_that_of_eager_prompts(backbones, family, config):
    """Of one pass over the whole prompt; sliding windows are shorter than it."""
    model = tiny.flamingo(backbones, language=family, **config)
    batch, alone = prompts(model, prefix=bool(config))
    attention = prompt_attention(model, batch).self_attention
    assert list(attention) == [0, 1, 2, 3]
    model.language_model.set_attn_implementation("eager")
    for row, inputs in enumerate(alone):
        with torch.no_grad():
            expected = model(**inputs, output_attentions=True).attentions
        for layer, weights in attention.items():
            last = F.pad(expected[layer][0, :, -1].mean(dim=0), (row, 0))
            torch.testing.assert_close(weights[row], last, rtol=1e-3, atol=1e-5)
