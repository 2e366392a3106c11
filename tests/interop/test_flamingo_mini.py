"""flamingo-mini's weights, by their documented names, against its formulas."""

import json
from functools import partial

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F
from transformers import CLIPVisionModel

from flamingo.interop import flamingo_mini
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.flamingo_mini_checkpoint import LAYERS, SETTINGS, make
from tests.interop.peers import document


def layer_norm(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attention(q, k, v, heads, visible=None):
    q, k, v = (rearrange(x, "... t (k e) -> ... k t e", k=heads) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.softmax(-1) if visible is None else scores.masked_fill(~visible, -1e30).softmax(-1)
    return rearrange(weights @ v, "... k t e -> ... t (k e)")


def mlp(x, state, name, activation):
    return activation(layer_norm(x, state, f"{name}.0") @ state[f"{name}.1.weight"].T) @ state[f"{name}.3.weight"].T


def resample(features, state):
    """Features [p v] of one image with its class token -> [r v]; the embedding of the first frame is added."""
    features = features + state["flamingo.resampler.time_pos_emb"][0]
    latents = state["flamingo.resampler.latents"]
    for i in range(2):
        name = f"flamingo.resampler.layers.{i}"
        queries = layer_norm(latents, state, f"{name}.0.norm_latents")
        context = torch.cat([layer_norm(features, state, f"{name}.0.norm_media"), queries])
        q, k, v = (x @ state[f"{name}.0.to_{w}.weight"].T for x, w in ((queries, "q"), (context, "k"), (context, "v")))
        latents = latents + attention(q, k, v, heads=3) @ state[f"{name}.0.to_out.weight"].T
        latents = latents + mlp(latents, state, f"{name}.1", F.relu)
    return layer_norm(latents, state, "flamingo.resampler.norm")


def gated_block(x, visual_tokens, image_index, state, name):
    """``visual_tokens`` [b m r v]; a token sees those of its image, or nothing."""
    keys, values = (rearrange(visual_tokens, "b m r v -> b (m r) v") @ state[f"{name}.attn.to_kv.weight"].T).chunk(
        2, -1
    )
    image = torch.arange(visual_tokens.shape[1]).repeat_interleave(visual_tokens.shape[2])
    visible = (image_index.unsqueeze(-1) == image).unsqueeze(1)
    queries = layer_norm(x, state, f"{name}.attn.norm") @ state[f"{name}.attn.to_q.weight"].T
    attended = attention(queries, keys, values, 2, visible) * (image_index >= 0).unsqueeze(-1)
    x = x + state[f"{name}.alpha_attn"].tanh() * attended @ state[f"{name}.attn.to_out.weight"].T
    return x + state[f"{name}.alpha_ffw"].tanh() * mlp(x, state, f"{name}.ffw", lambda y: F.relu(y) ** 2)


@torch.no_grad()
def reference(inputs, language_model, clip, state, family):
    visual_tokens = torch.stack(
        [
            torch.stack([resample(clip(image[None]).last_hidden_state[0], state) for image in images])
            for images in inputs["pixel_values"]
        ]
    )

    def see(layer, args, name):
        return (gated_block(args[0], visual_tokens, inputs["image_index"], state, name), *args[1:])

    layers = language_model.base_model.get_submodule(LAYERS[family])
    hooks = [
        layers[i].register_forward_pre_hook(partial(see, name=f"flamingo.lm.{LAYERS[family]}.{i}.xattn_block"))
        for i in (0, 2)
    ]
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    hidden = language_model.base_model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], position_ids=positions
    ).last_hidden_state
    for hook in hooks:
        hook.remove()
    return hidden @ state["flamingo.lm_head.weight"].T


@pytest.fixture
def convert(backbones, tmp_path):
    def converted(state, family, **settings):
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text(json.dumps(SETTINGS | settings))
        vision = str(backbones / "clip_vision_model")
        model, processor, _ = flamingo_mini.convert(tmp_path, vision, str(backbones / family))
        return model.eval(), processor

    return converted


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", LAYERS)
def test_logits_are_those_of_its_formulas(convert, backbones, family, tied, padding):
    language_model, state = make(family, backbones, tied)
    model, processor = convert(state, family)
    assert (model.new_tokens.output_rows is None) == tied
    assert processor.new_token_ids == model.config.new_token_ids == [tiny.VOCABULARY]
    clip = CLIPVisionModel.from_pretrained(backbones / "clip_vision_model")
    inputs = document([tiny.VOCABULARY, 40], padding)  # here a token of the vocabulary marks where an image is
    expected = reference(inputs, language_model, clip, state, family)
    others = reference(inputs | {"pixel_values": inputs["pixel_values"].flip(1)}, language_model, clip, state, family)
    assert (expected - others).abs().max() > 0.1
    found = (model(**inputs).logits - expected)[inputs["attention_mask"].bool()].abs().max()
    assert found < 1e-4


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("resampler.time_pos_emb", None, r"flamingo\.resampler\.time_pos_emb"),
        ("resampler.time_pos_emb", lambda x: x[1:], r"time_pos_emb.*\[3, 1, 24\].*\[4, 24\]"),
        ("lm.h.0.lm_block.ln_1.bias", None, r"flamingo\.lm\.h\.0\.lm_block\.ln_1\.bias"),
        ("lm.wte.weight", None, r"flamingo\.lm\.wte\.weight"),
        ("lm_head.weight", lambda x: x[1:], r"lm_head\.weight.*300.*<EOC>.*300"),
        (
            "lm_head.weight",
            lambda x: torch.cat([x, x]),
            r"lm_head\.weight.*\[602, 32\].*\[301, 32\]",
        ),
        ("lm.h.7.xattn_block.alpha_attn", lambda x: torch.ones(1), r"left-over keys flamingo\.lm\.h\.7"),
    ],
)
def test_what_does_not_fit_is_named(convert, backbones, key, change, message):
    _, state = make("gpt2", backbones, tied=False)
    value = state.pop(f"flamingo.{key}", None)
    if change:
        state[f"flamingo.{key}"] = change(value)
    with pytest.raises(UserError, match=message):
        convert(state, "gpt2")


def test_what_it_is_made_of_must_be_known(convert, backbones, tmp_path):
    _, state = make("gpt2", backbones, tied=True)
    with pytest.raises(UserError, match=r"mpt.*gpt2, opt"):
        convert(state, "mpt")
    with pytest.raises(UserError, match=r"config\.json.*xattn_act.*'tanh'"):
        convert(state, "gpt2", xattn_act="tanh")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        flamingo_mini.convert(tmp_path, str(backbones / "clip_vision_model"), str(backbones / "gpt2"))
