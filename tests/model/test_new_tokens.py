"""New tokens: separate trained rows for a frozen vocabulary, tied and scaled as it is."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from flamingo.model.language import NewTokenEmbeddings
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices

TIED = {"gpt2", "opt", "mpt", "qwen2", "gemma2", "gemma3_text", "mosaic_gpt"}


def test_a_new_row_acts_as_the_same_row_in_the_vocabulary_would(backbones, family):
    """The bare model with the row written over id 7, against the Flamingo that reads and scores a new id."""
    model = tiny.flamingo(backbones, language=family, gates=0.0)
    bare = AutoModelForCausalLM.from_pretrained(backbones / family).eval().to(devices.DEVICE)
    row = torch.randn_like(model.new_tokens.input_rows[0])
    model.new_tokens.input_rows.data[0] = row
    bare.get_input_embeddings().weight.data[7] = row
    if family in TIED:
        assert model.new_tokens.output_rows is None
    else:
        out = torch.randn_like(model.new_tokens.output_rows[0])
        model.new_tokens.output_rows.data[0] = out
        bare.get_output_embeddings().weight.data[7] = out
        if bare.get_output_embeddings().bias is not None:
            bare.get_output_embeddings().bias.data.zero_()
            model.get_output_embeddings().bias.data.zero_()
    ids = torch.tensor([[5, 7, 9, 7]])
    expected = bare(ids).logits
    logits = model(ids.masked_fill(ids == 7, tiny.NEW_TOKEN_IDS[0])).logits
    torch.testing.assert_close(logits[..., tiny.NEW_TOKEN_IDS[0]], expected[..., 7], atol=1e-4, rtol=1e-4)
    others = [i for i in range(tiny.VOCABULARY) if i != 7]
    assert torch.equal(logits[..., others], expected[..., others])


def test_only_the_new_rows_get_gradients(model):
    inputs = tiny.inputs()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.get_input_embeddings().weight.grad is None
    assert model.get_output_embeddings().weight.grad is None
    for rows in model.new_tokens.parameters():
        assert (rows.grad.abs().sum(dim=1) > 0).all()  # both tokens are read, and scored


def test_ids_within_the_vocabulary_replace_its_padding_rows(backbones):
    model = tiny.flamingo(backbones, new_token_ids=[290, 295], gates=0.0)
    model.new_tokens.input_rows.data.normal_()
    ids = torch.tensor([[3, 290, 4, 295]])
    logits, bare = model(ids).logits, model.language_model(ids).logits
    assert logits.shape[-1] == tiny.VOCABULARY
    others = [i for i in range(tiny.VOCABULARY) if i not in (290, 295)]
    assert torch.equal(logits[:, 0, others], bare[:, 0, others])  # the LM's own logits, as long as no new row was read
    assert not torch.allclose(logits[:, 1:, others], bare[:, 1:, others])
    assert not torch.allclose(logits[..., [290, 295]], bare[..., [290, 295]])


def test_ids_in_the_gap_behind_the_vocabulary_are_impossible(backbones):
    model = tiny.flamingo(backbones, new_token_ids=[305, 303])
    logits = model(torch.tensor([[3, 303, 305]])).logits
    assert logits.shape[-1] == 306
    assert torch.isneginf(logits[..., [300, 301, 302, 304]]).all()
    assert torch.isfinite(logits[..., [303, 305]]).all()


def test_new_rows_start_as_the_mean_row(backbones):
    model = tiny.flamingo(backbones, language="llama")
    torch.testing.assert_close(model.new_tokens.input_rows, model.get_input_embeddings().weight.mean(0).expand(2, -1))
    torch.testing.assert_close(model.new_tokens.output_rows, model.get_output_embeddings().weight.mean(0).expand(2, -1))


def test_without_new_tokens_nothing_changes_but_a_warning(backbones, caplog):
    model = tiny.flamingo(backbones, new_token_ids=[], gates=0.0)
    ids = torch.tensor([[4, 5]])
    assert torch.equal(model(ids).logits, model.language_model(ids).logits)


def test_an_unknown_id_is_refused():
    tokens = NewTokenEmbeddings([10, 11], vocab_size=10, input_width=4, output_width=4, tied=True)
    with pytest.raises(UserError, match=r"12.*10.*\[10.*11\]"):
        tokens.known_ids.check(torch.tensor([[10, 12]]))
