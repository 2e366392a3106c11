"""The probe of a language model finds each broken property, and families that break one."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.cache import PromptCache
from flamingo.model.composition import check_composition
from flamingo.model.text_probe import _Probe
from flamingo.utils.errors import UserError
from tests import tiny

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}


def composed(backbones, folder, family, settings):
    """A Flamingo on a language model of another family, whose weights are random and large."""
    config = AutoConfig.for_model(family, vocab_size=tiny.VOCABULARY, **settings)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    return FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "clip_vision_model", folder, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
    )


def test_every_family_passes(backbones, family):
    check_composition(tiny.flamingo(backbones, language=family))


@pytest.mark.parametrize("gate", ["scalar", "vector", "none"])
def test_every_kind_of_gate_passes(backbones, gate):
    check_composition(tiny.flamingo(backbones, fusion={"gate": gate}))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_an_encoder_is_refused(backbones, tmp_path, family):
    with pytest.raises(UserError, match=r"later tokens change the logits of earlier ones"):
        composed(backbones, tmp_path, family, {**_SMALL, "embedding_size": 32})


#: A change that no norm undoes.
FIRST = torch.eye(32)[0]


def broken(backbones, change, part="transformer.h.2", **settings):
    """A Flamingo on GPT-2 where ``change`` is applied to what a layer gives."""
    model = tiny.flamingo(backbones, **settings)
    model.language_model.get_submodule(part).register_forward_hook(lambda module, args, output: change(output))
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + x.mean(dim=1, keepdim=True), "later tokens change the logits of earlier ones"),
        (
            lambda x: x + FIRST * torch.arange(x.shape[1]).view(-1, 1),
            "padding on the left of a prompt changes",
        ),
        (lambda x: x + FIRST * (x.shape[1] == 1), "greedy decoding with its cache gives other logits than without"),
        (lambda x: x / 0, "logits that are not finite"),
    ],
)
def test_each_property_is_checked(backbones, change, message):
    with pytest.raises(ValueError, match=f"^GPT2LMHeadModel.*{message}"):
        check_composition(broken(backbones, change))


def test_embeddings_that_differ_from_token_ids_are_found(gpt2):
    def double(module, args, kwargs):
        if kwargs.get("inputs_embeds") is not None:
            kwargs["inputs_embeds"] = 2 * kwargs["inputs_embeds"]
        return args, kwargs

    gpt2.language_model.register_forward_pre_hook(double, with_kwargs=True)
    with pytest.raises(ValueError, match=r"other logits from embeddings and positions than from token ids"):
        check_composition(gpt2)


def test_a_cache_that_does_not_follow_its_beams_is_found(gpt2, monkeypatch):
    monkeypatch.setattr(PromptCache, "reorder_cache", lambda self, beams: None)
    with pytest.raises(ValueError, match="beam search with its cache"):
        check_composition(gpt2)


def test_whatever_a_forward_pass_raises_is_one_sentence(gpt2):
    def fail(module, args):
        raise KeyError("rope")

    gpt2.language_model.transformer.h[0].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel fails in a forward pass: KeyError: 'rope'$"):
        check_composition(gpt2)


@pytest.mark.parametrize(
    ("dtype", "experts", "shift", "outcome"),
    [
        (torch.float32, 1, 0.01, "refused"),
        (torch.float32, 4, 0.01, "refused"),
        (torch.bfloat16, 1, 0.3, "rounding alone"),
        (torch.bfloat16, 1, 3.0, "refused"),
        (torch.bfloat16, 4, 3.0, "router"),
    ],
)
def test_in_low_precision_a_rounding_difference_is_logged(backbones, caplog, dtype, experts, shift, outcome):
    model = broken(
        backbones, lambda x: x + (shift * FIRST * (x.shape[1] == 1)).to(x), part="transformer.ln_f", dtype=dtype
    )
    model.language_model.config.num_local_experts = experts
    logging.getLogger("flamingo").propagate = True
    caplog.set_level(logging.DEBUG)
    if outcome == "refused":
        with pytest.raises(ValueError, match="greedy decoding with its cache"):
            check_composition(model)
    else:
        check_composition(model)
        [record] = [record for record in caplog.records if outcome in record.getMessage()]
        assert record.levelno == (logging.WARNING if outcome == "router" else logging.DEBUG)


@pytest.mark.parametrize(("dtype", "leak"), [(torch.float32, 3e-4), (torch.bfloat16, 0.1)])
def test_rounding_is_no_excuse_in_fp32_or_for_later_tokens(backbones, monkeypatch, dtype, leak):
    monkeypatch.setattr(_Probe, "_rounding_noise", lambda self: 1.0)
    model = broken(backbones, lambda x: x + (leak * x.flip(1)).to(x), part="transformer.ln_f", dtype=dtype)
    with pytest.raises(UserError, match="later tokens"):
        check_composition(model)
