"""Pretraining of backbones on given files, and the parts of the pretraining."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from PIL import Image as PILImage
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from experiments.runs import run_language_pretraining, run_vision_pretraining
from flamingo.data.document import Image
from flamingo.data.pretraining.texts import TextDocuments
from flamingo.data.pretraining.token_blocks import TokenBlocks, encode_texts
from flamingo.data.pretraining.tokenizer import train_tokenizer
from flamingo.data.processor import FlamingoProcessor
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.model.fingerprints import fingerprint
from flamingo.model.vision_loading import load_vision_model
from flamingo.report.model_card import CardTexts, save_backbone
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed
from tests.helpers.states import read_state

SHORT = ("training.steps=3", "training.log_every=1", "training.save_every=2", "optimizer.warmup_steps=1")

SMALL_ENCODER = (
    "image_size=32",
    "embed_dim=16",
    "num_workers=0",
    "model.embedding_size=16",
    "model.hidden_sizes=[16,32]",
    "model.depths=[1,1]",
)


@pytest.fixture
def pairs(tmp_path):
    rows = []
    for colour in ("red", "green", "blue", "white"):
        PILImage.new("RGB", (40, 30), colour).save(tmp_path / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "captions": [f"a {colour} picture", f"all {colour}"]})
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_vision_encoder_is_pretrained_on_captioned_files(pairs, tmp_path):
    output = tmp_path / "vision"
    config = composed("pretrain_vision", f"pairs={pairs}", *SMALL_ENCODER, "batch_size=4", *SHORT)
    run_vision_pretraining.pretrain(config, output)
    encoder = AutoModel.from_pretrained(output / "model")
    assert encoder(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 32, 4, 4)
    # The running statistics of batch norms have moved, and are in the state that a stopped run resumes from.
    state = read_state(output, 3)
    name = "embedder.embedder.normalization.running_mean"
    assert encoder.state_dict()[name].abs().max() > 0
    assert torch.equal(state["buffers"][f"images.vision_model.{name}"], encoder.state_dict()[name])
    card = (output / "model" / "README.md").read_text()
    assert str(pairs) in card and "pretrain_vision" in card and "It was not probed." in card


def test_both_towers_are_saved_as_a_dual_encoder(pairs, tmp_path, monkeypatch):
    trained = []
    save = run_vision_pretraining.save_dual_encoder
    monkeypatch.setattr(run_vision_pretraining, "save_dual_encoder", lambda *args: (trained.append(args), save(*args)))
    output = tmp_path / "vision"
    config = composed("pretrain_vision", f"pairs={pairs}", *SMALL_ENCODER, "batch_size=4", *SHORT)
    run_vision_pretraining.pretrain(config, output)
    [(_, model, image_processor, tokenizer)] = trained
    model.eval()
    encoder = DualEncoder(output / "dual_encoder")
    pictures = [PILImage.open(pairs.parent / f"{colour}.png") for colour in ("red", "blue")]
    texts = ["all red", "a blue picture"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    assert (tokens["input_ids"][:, -1] == tokenizer.eos_token_id).all()  # the tower reads the end of a text
    with torch.no_grad():
        image_vectors = model.images(image_processor(pictures, return_tensors="pt")["pixel_values"])
        text_vectors = model.texts(tokens["input_ids"], tokens["attention_mask"])
    assert torch.allclose(encoder.image_vectors([Image(picture) for picture in pictures]), image_vectors, atol=1e-5)
    assert torch.allclose(encoder.text_vectors(texts), text_vectors, atol=1e-5)
    assert encoder.model.logit_scale.item() == pytest.approx(model.log_scale.item())
    vision_model = AutoModel.from_pretrained(output / "model")
    assert fingerprint(load_vision_model(output / "dual_encoder")) == fingerprint(vision_model)


def test_a_broken_image_is_named_before_an_encoder_trains(pairs, tmp_path):
    (tmp_path / "blue.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"blue\.png cannot be read"):
        run_vision_pretraining.read_pairs(str(pairs))


def test_a_card_shows_names_as_they_are(tmp_path, backbones):
    (tmp_path / "history.jsonl").write_text('{"step": 9, "seconds": 60, "loss": 1.5, "gates": {}}\n')
    model, tokenizer = (c.from_pretrained(backbones / "gpt2") for c in (AutoModelForCausalLM, AutoTokenizer))
    evil = "a|b `c` <script>\n\n```\n# d"
    texts = CardTexts(title=evil, command="pretrain_language", unit="token", scores=evil)
    save_backbone(tmp_path, {"texts": [evil]}, model, tokenizer, texts, scores={evil: 0.5})
    card = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)[2]  # behind the license
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card)
    shown = " ".join(evil.split())
    text = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert text[0] == shown and [text.count(cell) for cell in (shown, "0.500")] == [3, 1]
    assert "html_block" not in {token.type for token in tokens}
    [recipe] = [token for token in tokens if token.type == "fence"]
    assert yaml.safe_load(recipe.content) == {"texts": [evil]} and recipe.info == "yaml"


def test_captions_too_long_for_the_text_tower_are_left_out(pairs, tmp_path):
    """One with a special token would end before its end; one with more tokens than positions would end the training."""
    words = " ".join(f"{i:x}{i * 7919:x}" for i in range(200))
    rows = [{"image": "red.png", "captions": ["all red", "red <|endoftext|> red", words]}]
    rows += [{"image": "blue.png", "caption": "all blue"}, {"image": "green.png", "caption": ""}]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    read, tokenizer, skipped = run_vision_pretraining.read_pairs(str(pairs))
    assert [caption for _, caption in read] == ["all red", "all blue"]
    assert skipped.keys() == {"green.png", "red.png, caption 1", "red.png, caption 2"}
    assert tokenizer.model_max_length == 77
    config = composed("pretrain_vision", f"pairs={pairs}", *SMALL_ENCODER, "batch_size=2", *SHORT)
    run_vision_pretraining.pretrain(config, tmp_path / "vision")
    assert json.loads((tmp_path / "vision" / "skipped.json").read_text()) == skipped


def test_a_language_model_is_pretrained_on_texts(tmp_path):
    texts = tmp_path / "texts.jsonl.gz"
    rows = [{"captions": [f"a dog number {i}", f"dog {i}"]} for i in range(50)]
    rows += [{"text": "one text"}, {"text": "<|endoftext|>"}]
    texts.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    tiny = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    small = ("seq_len=16", "batch_size=2", "vocab_size=280", *(f"model.{key}={value}" for key, value in tiny.items()))
    output = tmp_path / "language"
    config = composed(
        "pretrain_language", "text=captions", f"texts=[{texts}]", "model.num_hidden_layers=1", *small, *SHORT
    )
    run_language_pretraining.pretrain(config, output)
    model, tokenizer = (c.from_pretrained(output / "model") for c in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer) <= 280
    assert tokenizer.decode(tokenizer(" a dog\n")["input_ids"]) == " a dog\n"
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 16
    assert json.loads((output / "skipped.json").read_text()).keys() == {f"{texts}: {texts}, line 52"}
    assert (output / "model" / "README.md").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.model_type=qwen33"], r"model\.model_type.*'qwen33'"),
        (["model.num_attention_heads=0"], "model.*qwen3"),
        (["optimizer.warmup_steps=6000"], r"optimizer\.warmup_steps"),
        (["documents=null"], "documents"),
        (["text=captions", "texts=[gone.jsonl]"], r"gone\.jsonl"),
        (["text=captions", "texts=[]"], "texts"),
        (["vocab_size=10"], "vocab_size.*10"),
    ],
    ids=str,
)
def test_errors_come_before_the_old_language_model_is_removed(tmp_path, overrides, named):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=named):
        run_language_pretraining.pretrain(composed("pretrain_language", "overwrite=true", *overrides), tmp_path)
    assert (tmp_path / "model").is_dir()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.model_type=resnetz"], r"model\.model_type.*'resnetz'"),
        (["model.hidden_sizes=[]"], "model.*resnet"),
        (["optimizer.warmup_steps=1200"], r"optimizer\.warmup_steps"),
        (["pairs=gone.jsonl"], r"gone\.jsonl"),
    ],
    ids=str,
)
def test_errors_come_before_the_old_encoder_is_removed(tmp_path, overrides, named):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=named):
        run_vision_pretraining.pretrain(composed("pretrain_vision", "overwrite=true", *overrides), tmp_path)
    assert (tmp_path / "model").is_dir()


@pytest.mark.full
def test_memory_does_not_grow_with_epochs():
    """Texts and their tokens are made a part at a time."""
    texts = ["a text", *(tuple(f"{name} {i} {i * i}" for i in range(3)) for name in "abcdefgh")] * 50
    tokenizer = train_tokenizer(TextDocuments(texts, 1, 0), vocab_size=300, max_length=64)

    def peak(epochs):
        documents = TextDocuments(texts, epochs, seed=0)
        tracemalloc.start()
        count = sum(map(len, encode_texts(documents, tokenizer)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return count, most

    few, many = peak(10), peak(60)
    assert many[0] > 5 * few[0] and many[1] < 1.5 * few[1]


def test_blocks_join_documents_and_end_each():
    blocks = TokenBlocks([[1, 2, 3], [4], [5, 6]], end_token_id=0, seq_len=4)
    assert [block.tolist() for block in blocks] == [[1, 2, 3, 0], [4, 0, 5, 6]]
    assert isinstance(blocks[0], np.ndarray)
    with pytest.raises(UserError, match=r"2 tokens.*block of 4"):
        TokenBlocks([[1]], end_token_id=0, seq_len=4)


def test_the_embedded_backbones_compose_and_fit_the_package():
    from flamingo.synthetic import backbones

    processor = FlamingoProcessor.from_vision_text_pretrained(backbones.VISION, backbones.LANGUAGE)
    assert processor.tokenizer.bos_token_id is not None
    files = [path for folder in (backbones.VISION, backbones.LANGUAGE) for path in folder.iterdir()]
    assert {"model.safetensors", "README.md"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 12_000_000
