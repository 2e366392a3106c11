"""MPT-1B's decoder gives the logits of MPT with two norms, from MosaicML's keys and config, at any position."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MptConfig, MptForCausalLM
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from flamingo.model.language import load_text_model, make_text_model
from flamingo.model.mosaic_gpt import MosaicGPTForCausalLM, alibi_features, alibi_slopes
from flamingo.model.mosaic_gpt_config import MosaicGPTConfig
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import mpt_with_norms
from tests.helpers.mpt_with_norms import PUBLISHED


def random_model(heads=3):
    config = MosaicGPTConfig(d_model=8 * heads, n_heads=heads, n_layers=2, vocab_size=50, max_seq_len=64)
    model = make_text_model(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3 if parameter.ndim > 1 else 1.0)
    return model


def padded_batch():
    ids, mask = torch.randint(0, 50, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [2, 3])
def test_logits_are_those_of_mpt_with_two_norms(heads, attention):
    model = random_model(heads)
    model.set_attn_implementation(attention)
    config = MptConfig(d_model=8 * heads, n_heads=heads, n_layers=2, vocab_size=50, max_seq_len=64)
    peer = mpt_with_norms.of(model, config)
    batch = padded_batch()
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = model(**batch), peer(**batch, output_attentions=True)
    assert theirs.logits.std() > 0.1
    torch.testing.assert_close(ours.logits[real], theirs.logits[real], atol=1e-4, rtol=0)
    if attention == "eager":
        weights = model(**batch, output_attentions=True).attentions
        for layer, expected in zip(weights, theirs.attentions, strict=True):
            torch.testing.assert_close(layer[0], expected[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("heads", [16, 12])
def test_slopes_are_those_of_mpt(heads):
    expected = build_mpt_alibi_tensor(heads, 2)[:, 0, 0]
    torch.testing.assert_close(-alibi_slopes(heads, 8, expected.device), expected)


def test_alibi_is_exact_in_bfloat16_at_the_last_positions():
    """Bfloat16 has no 2047; scores are sums in float32."""
    positions = torch.tensor([[0, 255, 256, 1999, 2046, 2047]])
    slopes = torch.tensor([0.5, 2.0**-8])
    queries, keys = alibi_features(positions, slopes, torch.bfloat16)
    scores = queries.float() @ keys.float().transpose(-1, -2)
    distances = positions[0].unsqueeze(0) - positions[0].unsqueeze(1)
    assert torch.equal(scores[0], slopes[:, None, None] * distances)


def test_distances_count_positions_not_places_in_the_cache():
    """Tokens at later positions, and a cache with a hole, as beams that share a prompt have it."""
    model, ids = random_model(), torch.randint(0, 50, (1, 9))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        moved = model(input_ids=ids, position_ids=torch.arange(300, 309).unsqueeze(0)).logits
        torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)
        with_hole = torch.cat([ids[:, :6], torch.tensor([[7, 8]]), ids[:, 6:]], dim=1)
        mask = torch.ones(11, 11, dtype=torch.bool).tril()
        mask[8:, 6:8] = False
        positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 8]])
        logits = model(input_ids=with_hole, attention_mask=mask[None, None], position_ids=positions).logits
    torch.testing.assert_close(logits[:, 8:], expected[:, 6:], atol=1e-4, rtol=0)


def test_the_published_size_has_the_published_keys():
    with torch.device("meta"):
        model = MosaicGPTForCausalLM(MosaicGPTConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_311_311_872
    keys = model.state_dict().keys()
    assert {key for key in keys if "blocks" not in key} == {
        "transformer.wte.weight",
        "transformer.ln_f.weight",
        "lm_head.weight",
    }
    layer = "transformer.blocks.23."
    names = "ln_1 attn.Wqkv attn.q_ln attn.k_ln attn.out_proj ln_2 mlp.mlp_up mlp.mlp_down"
    assert {key for key in keys if key.startswith(layer)} == {f"{layer}{name}.weight" for name in names.split()}
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_published_folder_loads_without_its_code(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    for name in ("configuration_mosaic_gpt.py", "mosaic_gpt.py"):
        (tmp_path / name).write_text("raise AssertionError('code of a checkpoint runs')")
    source = make_text_model(AutoConfig.from_pretrained(tmp_path))
    weights = {key: torch.randn_like(tensor) for key, tensor in source.state_dict().items() if key != "lm_head.weight"}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    model = load_text_model(tmp_path)
    assert type(model) is MosaicGPTForCausalLM
    for key, tensor in weights.items():
        assert torch.equal(model.state_dict()[key], tensor)
    assert model.lm_head.weight is model.transformer.wte.weight
    tiny.tokenizer().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == 1
    weights["transformer.blocks.0.ln_1.bias"] = torch.zeros(24)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"unexpected.*ln_1\.bias"):
        load_text_model(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alibi", False),
        ("attn_clip_qkv", 6.0),
        ("attn_qk_ln", False),
        ("logit_scale", "inv_sqrt_d_model"),
        ("no_bias", False),
        ("prefix_lm", True),
        ("softmax_scale", 0.5),
        ("resid_pdrop", 0.1),
        ("n_heads", 5),
    ],
)
def test_an_option_that_changes_the_architecture_is_refused(key, value):
    config = AutoConfig.for_model(**PUBLISHED | {key: value})
    with pytest.raises(UserError, match=f"{key}={value}"):
        AutoModelForCausalLM.from_config(config)


def test_mpt_that_would_ignore_its_norms_is_refused(tmp_path):
    config = MptConfig(d_model=8, n_heads=2, n_layers=1, vocab_size=20, attn_config={"qk_ln": True})
    MptForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"attn_config\.qk_ln=True"):
        load_text_model(tmp_path)
    with pytest.raises(UserError, match=r"attn_config\.qk_ln=True"):
        make_text_model(config)
