"""The command that converts: its files and messages, and no files after an error."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.runs.run_conversion import run_conversion
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.interop import openflamingo
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import flamingo_mini_checkpoint, idefics_checkpoint
from tests.helpers.configs import composed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(backbones):
    return f"vision={backbones / 'clip_vision_model'}", f"language={backbones / 'opt'}"


@pytest.fixture
def ours(backbones, tmp_path):
    """A checkpoint of ours that OpenFlamingo can express, without its backbones."""
    model = tiny.flamingo(
        backbones,
        "opt",
        connector=openflamingo.PERCEIVER,
        fusion={**openflamingo.CROSS_ATTENTION, "every": 2, "offset": 1},
    )
    model.save_pretrained(tmp_path / "ours", include_backbones=False)
    FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "opt").save_pretrained(
        tmp_path / "ours"
    )
    return tmp_path / "ours"


@pytest.fixture
def checkpoint(ours, tmp_path):
    run_conversion(composed("convert", "target=openflamingo", f"checkpoint={ours}", f"output={tmp_path / 'theirs'}"))
    return tmp_path / "theirs" / "checkpoint.pt"


def weights(folder):
    return FlamingoForConditionalGeneration.from_pretrained(folder).state_dict()


def test_ours_to_openflamingo_and_back_has_the_same_weights(ours, checkpoint, folders, tmp_path, caplog):
    output = tmp_path / "back"
    with caplog.at_level(logging.INFO):
        run_conversion(
            composed("convert", "source=openflamingo", f"checkpoint={checkpoint}", f"output={output}", *folders)
        )
    found, expected = weights(output), weights(ours)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert FlamingoProcessor.from_pretrained(output).new_token_ids == tiny.NEW_TOKEN_IDS
    assert (output / "model.safetensors").stat().st_size == (ours / "model.safetensors").stat().st_size
    assert "before layers 1, 3 of the language model" in caplog.text
    model = FlamingoForConditionalGeneration.from_pretrained(output)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trains: {trained:,} parameters" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "ours", "theirs"]


def test_an_idefics_is_converted_whole(tmp_path, caplog):
    idefics_checkpoint.save(idefics_checkpoint.make(), tmp_path / "idefics")
    with caplog.at_level(logging.INFO):
        run_conversion(
            composed("convert", "source=idefics", f"checkpoint={tmp_path / 'idefics'}", f"output={tmp_path / 'out'}")
        )
    assert any(key.startswith("language_model.") for key in weights(tmp_path / "out"))
    assert "from the checkpoint" in caplog.text
    assert FlamingoProcessor.from_pretrained(tmp_path / "out").image_marker.count("<fake_token_around_image>") == 2


def test_a_tokenizer_that_is_not_there_is_one_sentence(tmp_path):
    idefics_checkpoint.make().save_pretrained(tmp_path / "idefics")
    with pytest.raises(UserError, match="idefics") as caught:
        run_conversion(
            composed("convert", "source=idefics", f"checkpoint={tmp_path / 'idefics'}", f"output={tmp_path / 'out'}")
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_flamingo_mini_is_converted_whole(backbones, folders, tmp_path):
    _, state = flamingo_mini_checkpoint.make("opt", backbones, tied=False)
    (tmp_path / "mini").mkdir()
    torch.save(state, tmp_path / "mini" / "pytorch_model.bin")
    (tmp_path / "mini" / "config.json").write_text(json.dumps(flamingo_mini_checkpoint.SETTINGS))
    run_conversion(
        composed(
            "convert", "source=flamingo_mini", f"checkpoint={tmp_path / 'mini'}", f"output={tmp_path / 'out'}", *folders
        )
    )
    assert torch.equal(weights(tmp_path / "out")["language_model.lm_head.weight"], state["flamingo.lm_head.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "otter"}, r"source=otter.*target=flamingo.*source=openflamingo"),
        ({"source": "flamingo"}, r"source=flamingo.*target=flamingo"),
        ({"target": "openflamingo"}, r"source=openflamingo.*target=openflamingo"),
        ({"language": None}, "language"),
        ({"vision": "nowhere"}, r"vision.*nowhere"),
        ({"source": "flamingo", "target": "openflamingo"}, r"vision=.*clip_vision_model"),
        ({"source": "idefics"}, r"config\.json"),
        ({"checkpoint": "nowhere.pt"}, r"nowhere\.pt"),
        (
            {"source": "flamingo", "target": "openflamingo", "vision": None, "language": None},
            r"config\.json",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_and_nothing_written(checkpoint, folders, tmp_path, changes, message):
    config = composed(
        "convert", "source=openflamingo", f"checkpoint={checkpoint}", f"output={tmp_path / 'out'}", *folders
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        run_conversion(replace(config, **changes))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("damage", ["truncated", "hostile", "another model"])
def test_a_bad_file_leaves_nothing_behind(checkpoint, folders, tmp_path, damage):
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    else:
        torch.save({"a": torch.ones(1)} if damage == "another model" else {"a": print}, checkpoint)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"checkpoint\.pt"):
        run_conversion(
            composed(
                "convert", "source=openflamingo", f"checkpoint={checkpoint}", f"output={tmp_path / 'out'}", *folders
            )
        )
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_there_is_not_overwritten(checkpoint, folders, ours):
    with pytest.raises(UserError, match="output=FOLDER"):
        run_conversion(
            composed("convert", "source=openflamingo", f"checkpoint={checkpoint}", f"output={ours}", *folders)
        )


@pytest.mark.full
def test_the_command_ends_with_one_sentence_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "experiments.convert", "source=idefics", f"checkpoint={tmp_path / 'none'}"]
    done = subprocess.run([*command, f"output={tmp_path / 'out'}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("is not a folder of save_pretrained: it has no config.json")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
