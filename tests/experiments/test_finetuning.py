"""The recipe of docs/continuing.md: a vision encoder trains on larger images and loads again."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from experiments.setup.build import build_model, load_model
from flamingo import FlamingoProcessor
from flamingo.data.document import Image
from flamingo.model.adapters import is_of_adapter, merge_adapter
from flamingo.training.optim import MuonConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.errors import UserError
from tests import tiny
from tests.experiments.conftest import photograph
from tests.golden.scenes import write_scenes
from tests.helpers.configs import composed
from tests.helpers.small_runs import ONE_SETTING, TWO_STEPS

PAGE = Path(__file__).parents[2] / "docs" / "continuing.md"


def recipe():
    """The overrides of the command that the page shows for fine-tuning, by key."""
    commands = re.findall(r"python -m experiments\.train (.*?)\n```", PAGE.read_text(), re.DOTALL)
    [command] = [command for command in commands if "backbone_lr" in command]
    return dict(override.split("=", 1) for override in shlex.split(command.replace("\\\n", " ")))


@pytest.fixture(scope="module")
def start(backbones, tmp_path_factory):
    """A checkpoint that names its backbones, with an encoder whose position embeddings are interpolated."""
    folder = tmp_path_factory.mktemp("start")
    tiny.flamingo(backbones).save_pretrained(folder, include_backbones=False)
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    data = write_scenes(folder / "data", "train", 6)
    small = {
        "data.root": data,
        "model.init_from": start,
        "output": folder / "run",
        "model.image_size": 32,
        "training.steps": 3,
        "optimizer.warmup_steps": 1,
        "data.split": "null",
        "data.sample_split": "null",
        "tracker": "none",
        "data.documents.pairs.batch_size": 2,
        "data.documents.interleaved.batch_size": 2,
        "data.documents.interleaved.min_images": 2,
        "data.documents.interleaved.max_images": 2,
    }
    overrides = [f"{key}={value}" for key, value in (recipe() | small).items()]
    run_training(composed("train", *overrides), folder / "run")
    return folder


def test_the_encoder_trains_in_float32_not_the_language_model(start, finetuned):
    before, _ = load_model(start, "auto")
    after, _ = load_model(finetuned / "run" / "checkpoint", "auto")
    assert after.vision_model.dtype == torch.float32
    parts = {"vision_model": [], "language_model": [], "connector": [], "fusion": []}
    for name, tensor in after.state_dict().items():
        part = name.split(".")[0]
        if part in parts:
            # The experiment has its frozen backbone in bfloat16.
            expected = before.state_dict()[name]
            expected = expected.bfloat16().float() if part == "language_model" else expected
            parts[part].append(torch.equal(tensor, expected))
    assert all(parts["language_model"])
    for part in ("vision_model", "connector", "fusion"):
        assert not all(parts[part]), part
    patches = "vision_model.embeddings.patch_embedding.weight"
    assert not torch.equal(after.state_dict()[patches], before.state_dict()[patches])
    assert after.config.backbones_included


@pytest.mark.full
def test_the_checkpoint_takes_the_larger_images_and_is_evaluated(finetuned):
    model, processor = load_model(finetuned / "run" / "checkpoint", "auto")
    pixels = processor.pixel_values([Image(photograph(1))])
    assert pixels.shape[-2:] == (32, 32)
    with torch.no_grad():
        assert model.encode_images(pixels[None, :, 0]).isfinite().all()
    data = finetuned / "data" / "train.jsonl"
    task = (f"task.query={data}", f"task.support={data}", "task.query_split=null", "task.support_split=null")
    run = (f"run={finetuned / 'run'}", "limit=2", "shots=[0]", "controls=[]")
    run_evaluation(composed("evaluate", "task=flickr8k", *task, *run))
    assert json.loads((finetuned / "run" / "scores.json").read_text())


def test_a_run_begins_with_the_finetuned_model(finetuned):
    config = composed("train", f"model.init_from={finetuned / 'run'}")
    assert (config.model.image_size, config.include_backbones) == (32, True)
    model, _ = build_model(config.model)
    expected, _ = load_model(finetuned / "run" / "checkpoint", "auto")
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_backbone_has_the_learning_rate_of_its_own(finetuned):
    recorded = yaml.safe_load((finetuned / "run" / "config.yaml").read_text())["optimizer"]
    assert (recorded["kind"], recorded["lr"], recorded["backbone_lr"]) == ("muon", 1e-4, 1e-5)


@pytest.mark.full
def test_an_adapter_run_is_evaluated_continued_and_merged(tmp_path):
    adapter = ("model/adapter=lora", "model.adapter.settings.r=2")
    run_training(composed("train", *TWO_STEPS, *adapter, f"output={tmp_path / 'run'}"), tmp_path / "run")
    run_evaluation(composed("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING))
    assert json.loads((tmp_path / "run" / "scores.json").read_text())
    first, processor = load_model(tmp_path / "run" / "checkpoint", "auto")
    trained = {name: p for name, p in first.named_parameters() if is_of_adapter(name)}
    assert {name.split(".")[0] for name in trained} == {"language_model"}
    assert any(p.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)

    begun = composed("train", *TWO_STEPS, f"model.init_from={tmp_path / 'run'}", f"output={tmp_path / 'next'}")
    assert (begun.model.adapter.kind, begun.model.adapter.settings["r"]) == ("lora", 2)
    run_training(begun, tmp_path / "next")
    second, _ = load_model(tmp_path / "next" / "checkpoint", "auto")
    changed = [name for name, p in second.named_parameters() if not torch.equal(p, first.get_parameter(name))]
    assert any(map(is_of_adapter, changed))
    assert all(is_of_adapter(name) or not name.startswith("language_model") for name in changed)
    with pytest.raises(UserError, match=r"^model\.adapter .*lora in the language_model"):
        composed("train", "model/adapter=dora", f"model.init_from={tmp_path / 'run'}")

    merge_adapter(second)
    second.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    merged = composed("train", f"model.init_from={tmp_path / 'merged'}", "model/adapter=ia3")
    assert (merged.include_backbones, merged.model.adapter.kind) == (True, "ia3")
    model, _ = build_model(merged.model)
    assert {name.split(".")[-2] for name in model.trainable_parameter_names() if is_of_adapter(name)} == {"ia3_l"}


def test_the_weights_of_a_backbone_are_in_groups_of_their_own(backbones):
    model = tiny.flamingo(backbones, "llama")
    model.train_parts(["connector", "fusion", "new_tokens", "vision_model", "language_model"])
    optimizer = make_optimizer(model, MuonConfig(lr=0.5, backbone_lr=0.25, weight_decay=0.3))
    groups = {group["name"]: group for group in optimizer.param_groups}
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "matrices": (0.5, 0.3),
        "others": (0.5, 0.0),
        "backbone_matrices": (0.25, 0.3),
        "backbone_kernels": (0.25, 0.3),
        "backbone_others": (0.25, 0.0),
        "gates": (0.5, 0.0),
    }
    assert groups["backbone_kernels"]["param_names"] == ["vision_model.embeddings.patch_embedding.weight"]
    assert "language_model.model.embed_tokens.weight" in groups["backbone_others"]["param_names"]
    assert "language_model.model.layers.0.mlp.up_proj.weight" in groups["backbone_matrices"]["param_names"]
    muon = {name for group in optimizer.parts["muon"].param_groups for name in group["param_names"]}
    assert muon == {*groups["matrices"]["param_names"], *groups["backbone_matrices"]["param_names"]}
