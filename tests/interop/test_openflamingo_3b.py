"""A checkpoint with the layout of OpenFlamingo-3B is converted by the command, from a folder like MPT-1B's."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from experiments.runs.run_conversion import run_conversion
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.model.language import make_text_model
from tests.helpers.configs import composed
from tests.helpers.mpt_with_norms import PUBLISHED
from tests.interop import peers

#: Tokens of the tokenizer, of which some were added after its training; the model has more rows.
TOKENS = 300
END, IMAGE = TOKENS, TOKENS + 1


def neox_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer like GPT-NeoX's: one special token for all roles, no padding, added runs of blanks."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|padding|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS - 4, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["Output: a dog runs on the grass and a cat sits on a mat with two red balls"] * 4, trainer)
    end = specials[0]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, unk_token=end)
    tokenizer.add_tokens([" " * length for length in range(2, 2 + TOKENS - len(tokenizer))])
    assert len(tokenizer) == TOKENS and tokenizer.pad_token is None
    return tokenizer


@pytest.fixture
def language(tmp_path) -> Path:
    """Returns a folder like MPT-1B's on the hub."""
    folder = tmp_path / "mpt-1b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    model = make_text_model(AutoConfig.from_pretrained(folder))
    for name, parameter in model.named_parameters():
        peers.spread(name, parameter)
    weights = {key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    torch.save(weights, folder / "pytorch_model.bin")
    neox_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_3b_checkpoint_is_converted_by_the_command(backbones, language, tmp_path, monkeypatch):
    vision = backbones / "clip_vision_model"
    original = peers.open_flamingo(vision, language, 1, monkeypatch)
    state = peers.state_dict(original)
    wte = "lang_encoder.transformer.wte.weight"
    assert state[wte].shape == (TOKENS + 3, 24), "with the row of <PAD>; the model has 320"
    frozen = {key for key in state if key.startswith("lang_encoder") and "gated_cross_attn_layer." not in key}
    assert frozen == {wte}
    assert "lang_encoder.transformer.blocks.1.gated_cross_attn_layer.attn_gate" in state
    torch.save(state, tmp_path / "checkpoint.pt")
    arguments = [f"checkpoint={tmp_path / 'checkpoint.pt'}", f"vision={vision}", f"language={language}"]
    run_conversion(composed("convert", "source=openflamingo", f"output={tmp_path / 'ours'}", *arguments))

    model = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    processor = FlamingoProcessor.from_pretrained(tmp_path / "ours")
    assert processor.new_token_ids == [END, IMAGE]
    inputs = peers.document([END, IMAGE], "left")
    theirs = original(inputs["pixel_values"].unsqueeze(2), inputs["input_ids"], inputs["attention_mask"]).logits
    ours = model(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert theirs[real].std() > 0.1
    assert (ours[real][:, : TOKENS + 2] - theirs[real][:, : TOKENS + 2]).abs().max() < 1e-4

    batch = {key: value for key, value in inputs.items() if key != "pixel_values"}
    settings = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": END}
    assert model.shares_prefixes
    cached = model.generate(**batch, pixel_values=inputs["pixel_values"], **settings)
    uncached = model.generate(**batch, pixel_values=inputs["pixel_values"], **settings, use_cache=False)
    assert torch.equal(cached, uncached)
