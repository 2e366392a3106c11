"""Models of transformers load without running a checkpoint's code, and errors name what was to be loaded."""

import json
import os

import pytest
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer

from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.inference.captioner import Captioner
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from tests import tiny
from tests.evaluation.fake import model_and_processor

_KINDS = {
    "config.json": ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText"),
    "tokenizer_config.json": ("AutoTokenizer",),
    "preprocessor_config.json": ("AutoImageProcessor",),
    "processor_config.json": ("AutoProcessor", "AutoImageProcessor"),
}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder whose configs name code of its own, at a machine where every question is answered by y."""
    folder, ran = tmp_path / "hostile", tmp_path / "ran"
    folder.mkdir()
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n\n\nclass Own:\n    pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    yield folder
    assert not ran.exists(), "the checkpoint's own code was run"


def with_own_code(folder):
    for name, kinds in _KINDS.items():
        path = folder / name
        settings = json.loads(path.read_text()) if path.exists() else {"model_type": "own"}
        names = {kind: [None, "own.Own"] if kind == "AutoTokenizer" else "own.Own" for kind in kinds}
        path.write_text(json.dumps({**settings, "auto_map": names}))


@pytest.mark.parametrize(
    "load",
    [
        lambda own, good: FlamingoForConditionalGeneration.from_vision_text_pretrained(own, good / "gpt2"),
        lambda own, good: FlamingoForConditionalGeneration.from_vision_text_pretrained(good / "vit", own),
        lambda own, good: FlamingoForConditionalGeneration.from_pretrained(own),
        lambda own, good: FlamingoProcessor.from_vision_text_pretrained(own, good / "gpt2"),
        lambda own, good: FlamingoProcessor.from_vision_text_pretrained(good / "vit", own),
        lambda own, good: Captioner.from_pretrained(own),
        lambda own, good: from_pretrained(AutoConfig, str(own), "model.language"),
    ],
    ids=["vision", "language", "checkpoint", "image processor", "tokenizer", "captioner", "config key"],
)
def test_a_checkpoints_own_code_is_not_run(hostile, backbones, load):
    with_own_code(hostile)
    with pytest.raises(UserError, match=f"{hostile}|configuration of a own"):
        load(hostile, backbones)


def test_own_code_beside_parts_of_transformers_is_not_run_either(hostile, backbones):
    for part in model_and_processor(backbones):
        part.save_pretrained(hostile)
    with_own_code(hostile)
    Captioner.from_pretrained(hostile)


@pytest.mark.parametrize("loader", [AutoConfig, AutoTokenizer])
def test_what_cannot_be_loaded_is_named(tmp_path, loader):
    with pytest.raises(UserError, match=f"tokenizer {tmp_path / 'none'}: there is no such folder"):
        from_pretrained(loader, tmp_path / "none", "tokenizer")
    (tmp_path / "config.json").write_text('{"model_type": "gpt')
    with pytest.raises(UserError, match=f"tokenizer {tmp_path}: "):
        from_pretrained(loader, tmp_path, "tokenizer")


def test_damaged_weights_are_named(backbones, tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((backbones / "llama" / "config.json").read_text())
    content = (backbones / "llama" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"language model {tmp_path}: "):
        FlamingoForConditionalGeneration.from_vision_text_pretrained(
            backbones / "vit", tmp_path, new_token_ids=tiny.NEW_TOKEN_IDS
        )


def test_a_gguf_file_is_read_once_until_it_changes(tmp_path):
    """Reading one takes seconds, and a command asks for its config and its tokenizer several times."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    read = []

    class AutoConfig:
        @staticmethod
        def from_pretrained(folder, **kwargs):
            read.append((str(folder), kwargs["gguf_file"], kwargs["trust_remote_code"]))
            return {"numbers": [len(read)]}

    first = from_pretrained(AutoConfig, file, "language model")
    first["numbers"].append("changed by its owner")
    assert from_pretrained(AutoConfig, str(file), "model.language") == {"numbers": [1]}
    assert read == [(str(tmp_path), "model.gguf", False)]
    os.utime(file, ns=(1, 1))
    assert from_pretrained(AutoConfig, file, "language model") == {"numbers": [2]}
