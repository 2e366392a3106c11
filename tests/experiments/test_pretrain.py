"""Pretraining of backbones on one's own files, and the parts that it is made of."""

import gzip
import json
import math
import os
import tracemalloc

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from PIL import Image as PILImage
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from experiments import pretrain_language, pretrain_vision
from experiments.card import save_backbone
from experiments.pretrain_language import Blocks, encoded
from experiments.pretrain_vision import ImageTextContrast
from experiments.probe import CLASSES, answers
from experiments.texts import Documents, read_texts, similar
from experiments.tokenizer import train_tokenizer
from flamingo.data.processor import FlamingoProcessor
from flamingo.synthetic.scenes import Kind, Scene
from flamingo.utils.errors import UserError
from flamingo.utils.identity import digest_of
from tests.experiments.test_configs import composed

SHORT = ("training.steps=3", "training.log_every=1", "training.save_every=2", "optimizer.warmup_steps=1")


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
    small = ("image_size=32", "batch=4", "width=16", "workers=0", "model.hidden_sizes=[16,32]", "model.depths=[1,1]")
    output = tmp_path / "vision"
    config = composed("pretrain_vision", f"pairs={pairs}", "model.embedding_size=16", *small, *SHORT)
    pretrain_vision.pretrain(config, output)
    encoder = AutoModel.from_pretrained(output / "model")
    assert encoder(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 32, 4, 4)
    # The running statistics of batch norms have moved, and are in the state that a stopped run goes on from.
    state = torch.load(output / "state" / "step-00000003" / "common.pt", weights_only=True)
    name = "embedder.embedder.normalization.running_mean"
    assert encoder.state_dict()[name].abs().max() > 0
    assert torch.equal(state["buffers"][f"images.encoder.{name}"], encoder.state_dict()[name])
    card = (output / "model" / "README.md").read_text()
    assert str(pairs) in card and "pretrain_vision" in card and "It was not probed." in card


def test_a_broken_photograph_is_named_before_an_encoder_is_pretrained(pairs, tmp_path):
    (tmp_path / "blue.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"blue\.png cannot be read"):
        pretrain_vision.read_pairs(str(pairs))


def test_a_card_shows_names_as_they_are(tmp_path, backbones):
    (tmp_path / "history.jsonl").write_text('{"step": 9, "seconds": 60, "loss": 1.5, "gates": {}}\n')
    model, tokenizer = (c.from_pretrained(backbones / "gpt2") for c in (AutoModelForCausalLM, AutoTokenizer))
    evil = "a|b `c` <script>\n\n```\n# d"
    words = {"title": evil, "command": "pretrain_language", "unit": "token", "scored_on": evil}
    save_backbone(tmp_path, {"texts": [evil]}, model, tokenizer, scores={evil: 0.5}, **words)
    card = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)[2]  # behind the license
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card)
    shown = " ".join(evil.split())
    text = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert text[0] == shown and [text.count(cell) for cell in (shown, "0.500")] == [3, 1]
    assert "html_block" not in {token.type for token in tokens}
    [recipe] = [token for token in tokens if token.type == "fence"]
    assert yaml.safe_load(recipe.content) == {"texts": [evil]} and recipe.info == "yaml"


def test_captions_that_the_text_tower_cannot_read_are_left_out_and_named(pairs, tmp_path):
    """One with a special token would end before its end; one with more tokens than positions would end the training."""
    words = " ".join(f"{i:x}{i * 7919:x}" for i in range(200))
    rows = [{"image": "red.png", "captions": ["all red", "red <|endoftext|> red", words]}]
    rows += [{"image": "blue.png", "caption": "all blue"}, {"image": "green.png", "caption": ""}]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    read, tokenizer, skipped = pretrain_vision.read_pairs(str(pairs))
    assert [caption for _, caption in read] == ["all red", "all blue"]
    assert skipped.keys() == {"green.png", "red.png, caption 1", "red.png, caption 2"}
    assert tokenizer.model_max_length == 77
    small = ("image_size=32", "batch=2", "width=16", "workers=0", "model.hidden_sizes=[16,32]", "model.depths=[1,1]")
    config = composed("pretrain_vision", f"pairs={pairs}", "model.embedding_size=16", *small, *SHORT)
    pretrain_vision.pretrain(config, tmp_path / "vision")
    assert json.loads((tmp_path / "vision" / "skipped.json").read_text()) == skipped


def test_a_language_model_is_pretrained_on_texts(tmp_path):
    texts = tmp_path / "texts.jsonl.gz"
    rows = [{"captions": [f"a dog number {i}", f"dog {i}"]} for i in range(50)]
    rows += [{"text": "one text"}, {"text": "<|endoftext|>"}]
    texts.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    tiny = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    small = ("block=16", "batch=2", "vocabulary=280", *(f"model.{key}={value}" for key, value in tiny.items()))
    output = tmp_path / "language"
    config = composed(
        "pretrain_language", "text=captions", f"texts=[{texts}]", "model.num_hidden_layers=1", *small, *SHORT
    )
    pretrain_language.pretrain(config, output)
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
        (["vocabulary=10"], "vocabulary.*10"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_the_earlier_language_model_is_removed(tmp_path, overrides, named):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=named):
        pretrain_language.pretrain(composed("pretrain_language", "overwrite=true", *overrides), tmp_path)
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
def test_mistakes_are_found_before_the_earlier_encoder_is_removed(tmp_path, overrides, named):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=named):
        pretrain_vision.pretrain(composed("pretrain_vision", "overwrite=true", *overrides), tmp_path)
    assert (tmp_path / "model").is_dir()


@pytest.mark.parametrize("compressed", [False, True])
def test_texts_are_a_document_a_line_and_captions_those_of_an_image(compressed, tmp_path):
    def written(name, text):
        file = tmp_path / (f"{name}.gz" if compressed else name)
        file.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
        return str(file)

    assert read_texts(written("a.txt", "\ufeffone\u2028still\n\r\ntwo\r\n")) == (["one\u2028still", "two"], {})
    rows = '{"text": "one\\n two"}\n{"captions": [" a", "b"], "image": "no.png"}\n{"caption": "c\\nd", "id": 7}\n'
    assert read_texts(written("b.jsonl", rows)) == (["one\n two", ("a", "b"), ("c d",)], {})


def test_texts_are_read_by_the_readers_of_captioned_images_and_need_no_photographs(tmp_path):
    """File names are not learnt, nor the numbers of captions."""
    coco = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1, "caption": "a dog ."}]}
    karpathy = {"images": [{"filename": "x.png", "split": "val", "sentences": [{"raw": "a dog ."}]}]}
    files = {
        "captions.json": json.dumps(coco),
        "dataset.json": json.dumps(karpathy),
        "captions.txt": "image,caption\nx.jpg,a dog .\n",
        "Flickr8k.token.txt": "x.jpg#0\ta dog .\n",
        "kaggle.txt": "image_name,comment_number,comment\nx.jpg,0, a dog .\n",
        "results.csv": "image_name| comment_number| comment\nx.jpg| 0| a dog .\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert read_texts(str(tmp_path / name)) == ([("a dog .",)], {}), name


@pytest.mark.parametrize("text", ["<|endoftext|>", "a dog <|endoftext|> a cat", "", " \n", "\ud83d"])
def test_texts_that_cannot_be_used_are_left_out_counted_and_named(text, tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"text": "one"}, {"text": text}, {"captions": ["a", text]}, {"captions": ["a", "b"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts, skipped = read_texts(str(file))
    assert texts == ["one", ("a", "b")]
    assert list(skipped) == [f"{file}, line 2", f"{file}, line 3"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:3]))
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read_texts(str(file))


def test_captions_are_read_in_new_orders_as_they_stand_in_prompts():
    texts = ["a text", *(tuple(f"{name}{i}" for i in range(3)) for name in "abcd")]
    documents = Documents(texts, rounds=60, seed=0)
    made = list(documents)
    assert made == list(documents) == list(Documents(texts, rounds=60, seed=0))
    assert made != list(Documents(texts, rounds=60, seed=1))
    assert len(documents) == len(made) == 300
    assert [made[5 * i : 5 * i + 5].count("a text") for i in range(60)] == [1] * 60
    described = [document.removesuffix("\n").split("\n") for document in made if document != "a text"]
    lines = {line for document in described for line in document}
    assert lines == {f"Output: {name}{i}" for name in "abcd" for i in range(3)}
    of_one = [document for document in described if len({line[8] for line in document}) == 1]
    assert 0.25 < len(of_one) / len(described) < 0.5  # a third, and a few by chance
    assert len({tuple(document) for document in of_one if document[0][8] == "a" and len(set(document)) == 3}) == 6
    of_all_once = [document for document in described if len(document) == 4]
    assert 0.25 < len(of_all_once) / len(described) < 0.45
    assert all(len({line[8] for line in document}) == 4 for document in of_all_once)
    assert list(Documents(["one", ("a",), "two"], rounds=1, seed=0)).count("Output: a\n") == 1


def test_the_order_of_texts_is_the_same_in_all_versions_of_the_code():
    texts = ["a text", *(tuple(f"{name}{i}" for i in range(3)) for name in "abcdefgh"), "another"]
    assert digest_of(Documents(texts, rounds=3, seed=0)) == "bcfbec96529c62bd"


def test_memory_does_not_grow_with_rounds():
    """Texts and their tokens are made a part at a time."""
    texts = ["a text", *(tuple(f"{name} {i} {i * i}" for i in range(3)) for name in "abcdefgh")] * 50
    tokenizer = train_tokenizer(Documents(texts, 1, 0), vocabulary=300, positions=64)

    def peak(rounds):
        documents = Documents(texts, rounds, seed=0)
        tracemalloc.start()
        count = sum(map(len, encoded(documents, tokenizer)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return count, most

    few, many = peak(10), peak(60)
    assert many[0] > 5 * few[0] and many[1] < 1.5 * few[1]


def test_documents_of_similar_images_end_with_the_image_they_are_similar_to(monkeypatch):
    """Texts stand between captions, so that a place among all texts is none among those of images."""
    monkeypatch.setattr("experiments.texts._SIMILAR", 11)
    kinds = [(f"{name}{i} {verb}",) for i in range(12) for name, verb in (("dog", "barks"), ("fish", "swims"))]
    made = Documents(["a text", *kinds, "another"], rounds=30, seed=0)
    of_similar = [document.split("\n")[:-1] for document in made if document.count("\n") == 9]
    assert 180 < len(of_similar) < 300  # of 720
    assert all(len(set(document)) == 9 for document in of_similar)
    assert all(len({line.split()[-1] for line in document}) == 1 for document in of_similar)
    assert {document[-1] for document in of_similar} == {f"Output: {kind}" for (kind,) in kinds}


def test_images_are_similar_by_the_words_of_all_captions_rare_ones_before_common_ones():
    described = [["the dog", "a red dog"], ["the cat"], ["the dogs", "a dog"], ["the red cat"], ["a red house"]]
    near = similar(described, number=4)
    assert near[0].tolist()[0] == 2 and near[1].tolist()[0] == 3 and near[4].tolist()[:2] == [0, 3]
    assert all(place not in row for place, row in enumerate(near.tolist()))


def test_of_too_many_images_those_that_stand_near_are_compared(monkeypatch):
    described = [[f"{word} picture {i}"] for i in range(3) for word in ("dog", "cat", "dog", "cat", "tree")]
    monkeypatch.setattr("experiments.texts._COMPARED", 6)
    near = similar(described, number=1)[:, 0].tolist()  # in three parts of five
    for first in (0, 5, 10):
        assert near[first : first + 4] == [first + 2, first + 3, first, first + 1]
        assert first <= near[first + 4] < first + 4


def test_wrong_files_are_named_with_their_line(tmp_path):
    for name in ("none.txt", "none.jsonl", "none.json", "none-*.tar"):
        with pytest.raises(UserError, match=name.replace("*", r"\*")):
            read_texts(str(tmp_path / name))
    wrong = tmp_path / "wrong.jsonl"
    values = ('"captions": "a dog"', '"captions": ["a", 5]', '"text": ["a"]', '"text": null', '"url": "a"')
    for line in (*(f"{{{value}}}" for value in values), "a dog", '"a dog"', "[" * 100_000):
        wrong.write_text('{"text": "one"}\n' + line)
        with pytest.raises(UserError, match=r"wrong\.jsonl, line 2"):
            read_texts(str(wrong))
    for content in (gzip.compress(b"a dog\n" * 100)[:-12], b"no gzip", gzip.compress("Hündchen".encode("latin-1"))):
        (tmp_path / "wrong.txt.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"wrong\.txt\.gz"):
            read_texts(str(tmp_path / "wrong.txt.gz"))
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt"):
        read_texts(str(tmp_path / "pipe.txt"))


def test_blocks_join_documents_and_end_each():
    blocks = Blocks([[1, 2, 3], [4], [5, 6]], end=0, block=4)
    assert [block.tolist() for block in blocks] == [[1, 2, 3, 0], [4, 0, 5, 6]]
    assert isinstance(blocks[0], np.ndarray)
    with pytest.raises(UserError, match=r"2 tokens.*block of 4"):
        Blocks([[1]], end=0, block=4)


class Fixed(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, *_):
        return self.rows


def test_equal_captions_are_no_negatives_and_the_temperature_is_clamped():
    model = ImageTextContrast(Fixed([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), Fixed([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    model.log_scale.data.fill_(math.log(2.0))
    # For the first and third: exp(2) against one other with exp(0); for the second: two others with exp(0).
    one, two = math.log(1 + math.exp(-2.0)), math.log(1 + 2 * math.exp(-2.0))
    loss = model(None, None, None, same, num_items_in_batch=3).loss
    assert loss.item() == pytest.approx((2 * one + two) / 3)
    model.log_scale.data.fill_(math.log(1e4))
    wrong = ImageTextContrast(Fixed([[1.0, 0.0], [0.0, 1.0]]), Fixed([[0.0, 1.0], [1.0, 0.0]]))
    wrong.log_scale.data.fill_(math.log(1e4))
    assert wrong(None, None, None, torch.eye(2).bool(), num_items_in_batch=2).loss.item() == pytest.approx(100.0)


def test_probes_ask_only_what_makes_sense():
    pair = Scene((Kind("moon", "blue", "large"), Kind("circle", "red", "small")), "vertical", 2, seed=0)
    expected = {"shape": 7, "colour": 4, "size": 1, "second shape": 0, "second colour": 0, "second size": 0}
    assert dict(zip(CLASSES, answers(pair))) == expected | {"relation": 3, "count": -100}
    group = Scene((Kind("star", "green", "small"),), None, 3, seed=0)
    none = dict.fromkeys(("second shape", "second colour", "second size", "relation"), -100)
    assert dict(zip(CLASSES, answers(group))) == {"shape": 3, "colour": 3, "size": 0, "count": 2} | none


def test_the_embedded_backbones_compose_and_fit_the_package():
    from flamingo.synthetic import backbones

    processor = FlamingoProcessor.from_vision_text_pretrained(backbones.VISION, backbones.LANGUAGE)
    assert processor.tokenizer.bos_token_id is not None
    files = [path for folder in (backbones.VISION, backbones.LANGUAGE) for path in folder.iterdir()]
    assert {"model.safetensors", "README.md"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 12_000_000
