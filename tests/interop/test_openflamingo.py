"""OpenFlamingo's checkpoints give OpenFlamingo's logits, on each of its language models."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.interop import openflamingo
from flamingo.utils.errors import UserError
from tests import tiny
from tests.interop import peers

#: Each family of language models, and how often there is a gated block.
FAMILIES = {"opt": 1, "llama": 4, "gpt_neox": 2, "mpt": 2, "mosaic_gpt": 1}


@pytest.fixture(
    params=[pytest.param(family, marks=pytest.mark.full) if family == "mosaic_gpt" else family for family in FAMILIES]
)
def folders(request, backbones):
    return backbones / "clip_vision_model", backbones / request.param, FAMILIES[request.param]


@pytest.fixture
def mpt(backbones):
    """One family, where the family does not matter."""
    return backbones / "clip_vision_model", backbones / "mpt", FAMILIES["mpt"]


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "checkpoint.pt"


def convert(checkpoint, folders):
    model, processor, notes = openflamingo.convert(checkpoint, *map(str, folders[:2]))
    return model.eval(), processor, notes


@torch.no_grad()
def difference(original, model, processor, padding="right", vocabulary=None):
    """The largest difference between logits of real tokens, over the first entries of the vocabulary."""
    inputs = peers.document(processor.new_token_ids, padding)
    vision_x = inputs["pixel_values"].unsqueeze(2)
    ours = model(**inputs).logits
    theirs = original(vision_x, inputs["input_ids"], inputs["attention_mask"]).logits
    assert theirs.std() > 0.1
    others = original(vision_x.flip(1), inputs["input_ids"], inputs["attention_mask"]).logits
    assert (theirs - others).abs().max() > 0.1  # it matters what the pictures show
    vocabulary = vocabulary or ours.shape[-1]
    real = inputs["attention_mask"].bool()
    return (ours[real][:, :vocabulary] - theirs[real][:, :vocabulary]).abs().max().item()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_logits_are_those_of_the_original(folders, checkpoint, padding, monkeypatch):
    original = peers.open_flamingo(*folders, monkeypatch)
    torch.save(peers.state_dict(original), checkpoint)
    model, processor, notes = convert(checkpoint, folders)
    tied = model.new_tokens.output_rows is None
    assert difference(original, model, processor, padding, None if tied else tiny.VOCABULARY) < 1e-4
    assert bool(notes) == (not tied)  # the original says nothing of the new tokens' logits where they are not tied


def test_the_output_rows_of_redpajama_are_taken(backbones, checkpoint, monkeypatch):
    folders = backbones / "clip_vision_model", backbones / "gpt_neox", 2
    original = peers.open_flamingo(*folders, monkeypatch)
    state = peers.state_dict(original)
    state["lang_encoder.embed_out.weight"] = original.lang_encoder.get_output_embeddings().weight.detach()
    torch.save(state, checkpoint)
    model, processor, notes = convert(checkpoint, folders)
    assert difference(original, model, processor) < 1e-4
    assert not notes


def test_new_tokens_take_padding_rows_of_the_vocabulary(backbones, checkpoint, tmp_path, monkeypatch):
    config = AutoConfig.from_pretrained(backbones / "opt", vocab_size=tiny.VOCABULARY + 10)
    language_model = AutoModelForCausalLM.from_config(config)
    for name, parameter in language_model.named_parameters():
        peers.spread(name, parameter)
    language_model.save_pretrained(tmp_path / "opt")
    tiny.tokenizer().save_pretrained(tmp_path / "opt")
    folders = backbones / "clip_vision_model", tmp_path / "opt", 2
    original = peers.open_flamingo(*folders, monkeypatch)
    torch.save(peers.state_dict(original), checkpoint)
    model, processor, _ = convert(checkpoint, folders)
    assert processor.new_token_ids == tiny.NEW_TOKEN_IDS
    assert difference(original, model, processor, vocabulary=tiny.VOCABULARY + 2) < 1e-4


def test_repeated_keys_and_wrappers_of_training_files_are_read(mpt, checkpoint, monkeypatch):
    original = peers.open_flamingo(*mpt, monkeypatch)
    state = peers.state_dict(original)
    torch.save(state, checkpoint)
    expected = convert(checkpoint, mpt)[0].state_dict()
    layers = "lang_encoder.transformer.blocks."
    for key, tensor in list(state.items()):
        if key.startswith(layers):
            index, rest = key.removeprefix(layers).split(".gated_cross_attn_layer.")
            state[f"lang_encoder.gated_cross_attn_layers.{index}.{rest}"] = tensor
    for key, tensor in original.lang_encoder.old_decoder_blocks[0].state_dict().items():
        state[f"lang_encoder.old_decoder_blocks.0.{key}"] = state[f"{layers}0.decoder_layer.{key}"] = tensor
    state[f"{layers}0.decoder_layer.attn.rotary_emb.inv_freq"] = torch.ones(3)
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save({"epoch": 3, "model_state_dict": wrapped, "optimizer_state_dict": {"lr": 1e-4}}, checkpoint)
    found = convert(checkpoint, mpt)[0].state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    key = next(key for key in wrapped if "gated_cross_attn_layers" in key)
    wrapped[key] = wrapped[key] + 1  # not what stands in the other place
    torch.save(wrapped, checkpoint)
    with pytest.raises(UserError, match=r"lang_encoder\.transformer\.blocks\.1\.gated"):
        convert(checkpoint, mpt)


def test_a_converted_checkpoint_equals_ours_both_ways(folders, checkpoint, monkeypatch):
    original = peers.open_flamingo(*folders, monkeypatch)
    torch.save(peers.state_dict(original), checkpoint)
    model, processor, _ = convert(checkpoint, folders)
    for part in (model.connector, model.fusion.blocks, model.new_tokens):
        for name, parameter in part.named_parameters():
            peers.spread(name, parameter)
    torch.save(openflamingo.export(model, processor), checkpoint)
    keys = original.load_state_dict(torch.load(checkpoint, weights_only=True), strict=False)
    assert [key for key in keys.unexpected_keys if "embed_out" not in key] == []
    assert difference(original, model, processor) < 1e-4
    back, _, notes = convert(checkpoint, folders)
    assert notes == []
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in back.state_dict().items())


def test_what_openflamingo_cannot_express_is_not_exported(backbones):
    model = tiny.flamingo(backbones)
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    with pytest.raises(UserError, match=r"connector\.depth=2.*6"):
        openflamingo.export(model, processor)
    with pytest.raises(UserError, match=r"connector\.kind=mlp.*perceiver"):
        openflamingo.export(tiny.flamingo(backbones, connector=tiny.PATCH_CONNECTORS["mlp"]), processor)
    theirs = {"connector": openflamingo.PERCEIVER, "fusion": {**openflamingo.CROSS_ATTENTION, "every": 2, "offset": 0}}
    with pytest.raises(UserError, match=r"fusion\.offset=0.*1"):
        openflamingo.export(tiny.flamingo(backbones, **theirs), processor)
    prefix = {"fusion": {"kind": "prefix"}, "image_token_id": 301}
    with pytest.raises(UserError, match=r"fusion\.kind=prefix.*cross_attention"):
        openflamingo.export(tiny.flamingo(backbones, **theirs | prefix), processor)
    theirs["fusion"]["offset"] = 1
    with pytest.raises(UserError, match=r"300.*new_token_ids.*\[301, 300\]"):
        openflamingo.export(tiny.flamingo(backbones, **theirs, new_token_ids=[301, 300]), processor)


@pytest.fixture(scope="module")
def saved_state(backbones):
    with pytest.MonkeyPatch.context() as monkeypatch:
        folders = backbones / "clip_vision_model", backbones / "mpt", FAMILIES["mpt"]
        return peers.state_dict(peers.open_flamingo(*folders, monkeypatch))


@pytest.fixture
def state(saved_state):
    return dict(saved_state)


WTE = "lang_encoder.transformer.wte.weight"
GATE = "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.attn_gate"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("perceiver.latents"), r"perceiver\.latents"),
        (lambda s: s.update(extra=torch.ones(1)), r"extra$"),
        (
            lambda s: s.update(renamed=s.pop(GATE)),
            r"3\.gated_cross_attn_layer\.attn_gate",
        ),
        (
            lambda s: s.update({"perceiver.latents": s["perceiver.latents"][1:]}),
            r"perceiver\.latents.*\[63, 24\].*\[64, 24\]",
        ),
        (lambda s: s.pop(WTE), r"lang_encoder\.transformer\.wte\.weight"),
        (
            lambda s: s.update({WTE: s[WTE][:-2]}),
            r"wte\.weight.*\[301, 32\].*\[302 or 303, 32\].*300",
        ),
        (lambda s: s.update({WTE: s[WTE].roll(1, 0)}), r"wte\.weight"),
        (lambda s: s.clear(), r"OpenFlamingo.*gated_cross_attn_layer\.attn_gate"),
    ],
    ids=["missing", "left over", "renamed", "off by one", "no embeddings", "too few rows", "another model", "empty"],
)
def test_what_does_not_fit_is_named(state, mpt, checkpoint, change, message):
    change(state)
    torch.save(state, checkpoint)
    with pytest.raises(UserError, match=message):
        convert(checkpoint, mpt)


def test_a_converted_model_is_saved_without_named_backbones(state, mpt, checkpoint, tmp_path):
    torch.save(state, checkpoint)
    model = convert(checkpoint, mpt)[0]
    model.save_pretrained(tmp_path / "ours", include_backbones=False)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert {name.split(".")[0] for name in model.trainable_parameter_names()} == {
        *("connector", "fusion", "new_tokens")
    }
