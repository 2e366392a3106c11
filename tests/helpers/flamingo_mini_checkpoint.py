"""The config and random weights of a tiny flamingo-mini, by its documented names."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from tests.interop.peers import spread

#: Its config.json, which leaves out defaults. The activations are not the default ones.
SETTINGS = {
    "xattn_every": 2,
    "xattn_heads": 2,
    "xattn_dim_head": 6,
    "xattn_ff_mult": 3,
    "xattn_act": "sqrelu",
    "resampler_heads": 3,
    "resampler_dim_head": 4,
    "resampler_ff_mult": 2,
    "resampler_act": "relu",
    "resampler_depth": 2,
    "resampler_num_latents": 5,
}
FRAMES, V, D = 4, 24, 32
LAYERS = {"gpt2": "h", "opt": "decoder.layers"}
EMBEDDING = {"gpt2": "wte", "opt": "decoder.embed_tokens"}


def normal(*shape):
    parameter = torch.nn.Parameter(torch.empty(shape))
    spread("weight", parameter)
    return parameter.detach()


def norm(name, width):
    return {f"{name}.weight": normal(width), f"{name}.bias": normal(width) - 0.8}


def feedforward(name, width, multiple):
    up, down = normal(multiple * width, width), normal(width, multiple * width)
    return norm(f"{name}.0", width) | {f"{name}.1.weight": up, f"{name}.3.weight": down}


def random_state(language_model, family, tied):
    """Returns a state dict of flamingo-mini, with one token more than the language model has."""
    state = {
        "flamingo.resampler.latents": normal(5, V),
        "flamingo.resampler.time_pos_emb": normal(FRAMES, 1, V),
        **norm("flamingo.resampler.norm", V),
    }
    for i in range(2):
        name = f"flamingo.resampler.layers.{i}"
        state |= norm(f"{name}.0.norm_media", V) | norm(f"{name}.0.norm_latents", V)
        state |= {f"{name}.0.to_{x}.weight": normal(12, V) for x in "qkv"} | {f"{name}.0.to_out.weight": normal(V, 12)}
        state |= feedforward(f"{name}.1", V, 2)
    layers = LAYERS[family]
    for i in (0, 2):
        name = f"flamingo.lm.{layers}.{i}.xattn_block"
        state |= {f"{name}.alpha_attn": torch.tensor([0.6]), f"{name}.alpha_ffw": torch.tensor([-0.7])}
        state |= norm(f"{name}.attn.norm", D) | feedforward(f"{name}.ffw", D, 3)
        state |= {f"{name}.attn.to_q.weight": normal(12, D), f"{name}.attn.to_kv.weight": normal(24, V)}
        state |= {f"{name}.attn.to_out.weight": normal(D, 12)}
    for key, tensor in language_model.base_model.state_dict().items():
        for i in (0, 2):
            key = key.replace(f"{layers}.{i}.", f"{layers}.{i}.lm_block.")
        state[f"flamingo.lm.{key}"] = tensor
    state["flamingo.lm_head.weight"] = state[f"flamingo.lm.{EMBEDDING[family]}.weight"]
    if not tied:
        state["flamingo.lm_head.weight"] = normal(*state["flamingo.lm_head.weight"].shape)
    return state


def make(family, backbones, tied):
    """Returns a language model with a row for <EOC>, and a state dict of flamingo-mini with its weights."""
    config = AutoConfig.from_pretrained(backbones / family, vocab_size=tiny.VOCABULARY + 1, dropout=0.0)
    language_model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in language_model.named_parameters():
        spread(name, parameter)
    return language_model, random_state(language_model, family, tied)
