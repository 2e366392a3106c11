"""A composition whose language model has no weights yet is checked by a small copy."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo.model.sharded_loading import defer_weights
from flamingo.model.small_copy import small_copy
from flamingo.utils.errors import UserError
from tests import tiny

DEFERRED = {"load": defer_weights}


@pytest.mark.parametrize(("family", "num_layers"), [("gpt2", 1), ("gemma2", 2)])
def test_the_copy_has_a_layer_of_each_type_and_the_widths(backbones, family, num_layers):
    model = tiny.flamingo(backbones, family, text_kwargs=DEFERRED, dtype="bfloat16")
    before = torch.get_rng_state()
    copy = small_copy(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert copy.config.text_config.num_hidden_layers == num_layers
    assert [*copy.fusion.blocks] == [str(layer) for layer in range(num_layers)]
    assert copy.get_input_embeddings().weight.shape[1] == 32
    assert copy.language_model.dtype == torch.float32
    assert model.config.text_config.num_hidden_layers == 4


def test_the_vocabulary_keeps_the_rows_of_special_tokens(backbones, tmp_path):
    config = AutoConfig.for_model("llama", vocab_size=2000, pad_token_id=900, **tiny.LANGUAGE_MODELS["llama"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    (tmp_path / "clip_vision_model").symlink_to(backbones / "clip_vision_model")
    model = tiny.flamingo(tmp_path, "llama", text_kwargs=DEFERRED, new_token_ids=[2000, 2001], check=True)
    assert small_copy(model).config.text_config.vocab_size == 901


def test_a_language_model_that_does_not_fit_is_refused(backbones, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model("bert", vocab_size=tiny.VOCABULARY, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "clip_vision_model").symlink_to(backbones / "clip_vision_model")
    with pytest.raises(UserError, match="causal"):
        tiny.flamingo(tmp_path, "bert", text_kwargs=DEFERRED, check=True)


def test_a_language_model_that_cannot_be_short_is_not_checked(backbones, monkeypatch, caplog):
    def refuse(config):
        raise ValueError("too few layers")

    monkeypatch.setattr("flamingo.model.small_copy.make_text_model", refuse)
    tiny.flamingo(backbones, text_kwargs=DEFERRED, check=True)
    assert "too few layers" in caplog.text
