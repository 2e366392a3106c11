"""Language models in GGUF files, through transformers."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.model.language import load_text_model
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from tests import tiny

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_names(name):
    """llama.cpp's name of a parameter of transformers' Llama."""
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module = name.removesuffix(".weight")
    if module in outer:
        return f"{outer[module]}.weight"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


def interleaved(weight, heads):
    """Rows of queries and keys as llama.cpp has them: the two halves of each head's rotation interleaved."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


@pytest.fixture
def gguf_file(backbones, tmp_path):
    """The tiny Llama in a GGUF file, with a tokenizer."""
    gguf = pytest.importorskip("gguf")
    model = AutoModelForCausalLM.from_pretrained(backbones / "llama")
    config = model.config
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = tiny.tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([tokenizer.convert_ids_to_tokens(i) for i in range(config.vocab_size)])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, weight in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = interleaved(weight, heads)
        writer.add_tensor(gguf_names(name), weight.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "llama.gguf"


def test_a_gguf_file_is_a_language_model_with_its_tokenizer(backbones, gguf_file, tmp_path):
    expected = AutoModelForCausalLM.from_pretrained(backbones / "llama")
    ids = torch.arange(3, 15).unsqueeze(0)
    torch.testing.assert_close(load_text_model(gguf_file)(ids).logits, expected(ids).logits, atol=1e-4, rtol=1e-4)
    from_pretrained(AutoConfig, str(gguf_file), "model.language")
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", gguf_file)
    text = "a dog runs on the grass"
    assert processor.decode(processor.tokenizer(text)["input_ids"]).strip() == text
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "clip_vision_model", gguf_file, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
    ).eval()
    for include_backbones in (True, False):
        model.save_pretrained(tmp_path / "flamingo", include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo")
        assert torch.equal(loaded(**tiny.inputs()).logits, model(**tiny.inputs()).logits)


def test_without_the_gguf_package_the_error_says_what_to_install(gguf_file, backbones, monkeypatch):
    monkeypatch.setattr("transformers.utils.import_utils.is_gguf_available", lambda *_: False)
    for name in [name for name in sys.modules if name == "gguf" or name.startswith("gguf.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"language model {gguf_file}: .*flamingo\[gguf\]"):
        load_text_model(gguf_file)


def test_a_damaged_gguf_file_is_named(gguf_file):
    gguf_file.write_bytes(gguf_file.read_bytes()[:100])
    with pytest.raises(UserError, match=f"language model {gguf_file}"):
        load_text_model(gguf_file)
