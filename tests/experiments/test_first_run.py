"""A first run from four keys: open keys are chosen, problems are reported together, and a dry run shows the result."""

import json
import logging
import math
import os
import re
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image as PILImage

from experiments.cli.extra_arguments import dry_run_arguments
from experiments.cli.hydra_config import load
from experiments.runs.run_training import run_training
from experiments.schema import as_recorded
from experiments.setup import choices, dry_run
from experiments.setup.choices import with_choices
from experiments.setup.preparation import FILES, prepare
from experiments.setup.trial_training import Measured
from flamingo.utils.errors import UserError
from flamingo.utils.problems import Problems
from flamingo.utils.run_folder import Run
from tests import tiny
from tests.experiments.conftest import photograph, shard
from tests.helpers.configs import compose_config, composed
from tests.helpers.forked import values_of_processes
from tests.helpers.states import make_complete_state

LONG = "a dog runs on the grass, two dogs run after a red ball"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fourteen photographs with three captions each, and no splits: 10, 2 and 2 are made."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for number in range(14):
        photograph(number).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": [f"a dog {number}", LONG, "two dogs"]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def four_keys(folder, backbones, *overrides, vision="clip_vision_model", language="gpt2"):
    return (
        *("experiment=captions", f"data.root={folder}", "tracker=none"),
        *(f"model.vision={backbones / vision}", f"model.language={backbones / language}"),
        *overrides,
    )


def chosen(output, *overrides):
    config = composed("train", *overrides)
    problems = Problems()
    config = with_choices(config, Run(output, as_recorded(config), FILES), problems)
    problems.report()
    return config


@pytest.mark.full
def test_a_key_is_left_open_until_it_is_set():
    given = ("experiment=captions", "data.root=a", "model.vision=b", "model.language=c")
    config = composed("train", *given, "training.steps=70", "data.documents.pairs.batch_size=3", "data.split=all")
    assert not {"training.steps", "data.documents.pairs.batch_size", "data.split"} & set(config.left_open)
    assert {"training.precision", "data.sample_split", "data.documents.interleaved.max_images"} <= set(config.left_open)
    assert config.optimizer.warmup_steps == 7
    assert composed("train").left_open == ["optimizer.warmup_steps"]
    assert composed("train").optimizer.warmup_steps == composed("pretrain_language").optimizer.warmup_steps == 50


def test_a_key_that_nothing_can_be_chosen_for_is_not_left_open():
    with pytest.raises(UserError, match=r"training\.save_every"):
        load(compose_config("train", "training.save_every=${chosen:}"))


def test_values_are_chosen_from_data_backbones_and_device(folder, backbones, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(choices, "multiplies_bfloat16", lambda device: True)
    with caplog.at_level(logging.INFO):
        config = chosen(tmp_path, *four_keys(folder, backbones))
    pairs, interleaved = (config.data.documents[name].documents for name in ("pairs", "interleaved"))
    assert (config.dtype, config.training.precision) == ("bfloat16", "bf16")
    assert (config.data.split, config.data.sample_split) == ("train", "validation")
    assert (pairs.captions_per_image, pairs.batch_size) == (3, 16)
    # Of 128 positions four are for what stands around; an image has a marker and an end.
    tokens = len(tiny.tokenizer()(f"Output: {LONG}")["input_ids"]) + 2
    assert 2 <= interleaved.min_images == interleaved.max_images == 124 // tokens < 9
    assert interleaved.batch_size == 36 // interleaved.max_images
    training = config.training
    assert (training.steps, config.optimizer.warmup_steps, training.log_every) == (200, 20, 10)
    assert config.model.fusion.every == 1
    for key in config.left_open:
        assert f"{key}=" in caplog.text
    monkeypatch.setattr(choices, "multiplies_bfloat16", lambda device: False)
    config = chosen(tmp_path, *four_keys(folder, backbones, "training.steps=30", language="opt"))
    assert (config.dtype, config.training.precision, config.optimizer.warmup_steps) == ("float32", "fp32", 3)
    assert config.training.log_every == 1  # at least 20 records


def test_the_splits_of_the_data_are_found_by_their_names(shards, backbones, tmp_path):
    config = chosen(tmp_path, *four_keys(shards, backbones))
    assert (config.data.split, config.data.sample_split) == ("train", "dev")


def test_data_with_one_split_hold_out_others_unless_it_is_named(backbones, tmp_path):
    """As of a folder data/ with train-00000-of-00001.parquet."""
    shard(tmp_path / "train-000000.tar", range(12))
    alone = chosen(tmp_path / "run", *four_keys(tmp_path, backbones)).data
    assert (alone.splits.make, alone.split, alone.sample_split) == (True, "train", "validation")
    named = chosen(tmp_path / "run", *four_keys(tmp_path, backbones, "data.split=train")).data
    assert (named.splits.make, named.sample_split) == (None, None)


def test_little_memory_makes_smaller_batches(folder, backbones, tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "free_memory", lambda device: 15_000_000)
    pairs = chosen(tmp_path, *four_keys(folder, backbones)).data.documents["pairs"].documents
    assert 1 <= pairs.batch_size < 16


def test_processes_choose_the_same_values(folder, backbones, tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "_FEWEST_STEPS", 1)

    def batch_size_and_steps(memory):
        monkeypatch.setattr(choices, "free_memory", lambda device: memory)
        config = chosen(tmp_path, *four_keys(folder, backbones))
        return config.data.documents["pairs"].documents.batch_size, config.training.steps

    def of_process():
        return batch_size_and_steps((10**12, 15_000_000)[int(os.environ["RANK"])])

    batch_size, steps = batch_size_and_steps(15_000_000)
    assert values_of_processes(2, of_process) == [(batch_size, math.ceil(steps / 2))] * 2


def test_a_run_resumes_with_what_was_chosen_when_it_began(folder, backbones, tmp_path, monkeypatch):
    began = chosen(tmp_path, *four_keys(folder, backbones))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_recorded(began)))
    monkeypatch.setattr(choices, "free_memory", lambda device: 15_000_000)
    assert chosen(tmp_path, *four_keys(folder, backbones)) != began  # nothing is saved there
    make_complete_state(tmp_path)
    assert chosen(tmp_path, *four_keys(folder, backbones)) == began
    assert chosen(tmp_path, *four_keys(folder, backbones, "overwrite=true")).data != began.data


@pytest.mark.full
def test_problems_of_files_backbones_and_splits_come_together(folder, backbones, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    rows = []
    for number in range(6):
        photograph(number).save(broken / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "caption": "a dog"}))
    (broken / "captions.jsonl").write_text("\n".join(rows))
    for file in broken.glob("*.png"):
        file.write_bytes(b"no picture")
    overrides = four_keys(broken, backbones, "evaluate=[{kind:synthetic_captions,shots:[9999]}]", vision="clip")
    config = composed("train", *overrides, "model.trainable=[vision_model]")
    with pytest.raises(UserError) as caught:
        prepare(config, Run(tmp_path / "run", {}, FILES))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{len(lines) - 1} problems:"
    # The pictures of two splits cannot be read.
    numbers = {"model.vision": 1, "png cannot be read": 2, "include_backbones=true": 1, "9999": 1}
    assert {named: sum(named in line for line in lines) for named in numbers} == numbers, lines
    assert not (tmp_path / "run").exists()


def own_set(folder, caption, split=None):
    """Twelve photographs with the same caption."""
    folder.mkdir()
    rows = []
    for number in range(12):
        photograph(number).save(folder / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "caption": caption, "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


def problems_of(config, tmp_path):
    with pytest.raises(UserError) as caught:
        prepare(config, Run(tmp_path / "run", {}, FILES))
    return str(caught.value).split("\n- ")[1:] or [str(caught.value)]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("damaged weights", marks=pytest.mark.full),
        pytest.param("missing", marks=pytest.mark.full),
        pytest.param("no image processor", marks=pytest.mark.full),
        pytest.param("no such layer", marks=pytest.mark.full),
    ],
)
def test_a_broken_backbone_hides_no_check_of_lengths(broken, backbones, tmp_path):
    vision = tmp_path / "vision"
    if broken != "missing":
        shutil.copytree(backbones / "clip_vision_model", vision)
    if broken == "no image processor":
        (vision / "preprocessor_config.json").unlink()
    if broken == "damaged weights":
        (vision / "model.safetensors").write_bytes(b"damaged")
    data = own_set(tmp_path / "own", "so long " * 100)
    own = ("evaluate=[{kind:synthetic_captions,shots:[30],controls:[],text_only:false}]", f"model.vision={vision}")
    if broken == "no such layer":
        own += ("model.vision_features.hidden_state=77",)
    found = problems_of(composed("train", *four_keys(data, backbones, *own)), tmp_path)
    assert len(found) == 4, found
    assert found[0].startswith("model.vision") or broken == "no such layer"
    for problem, split in zip(found[1:3], ("train: 0 of 8", "validation: 0 of 2"), strict=True):
        assert problem.startswith("data.root=") and f"split {split} images are left" in problem
    assert found[3].startswith("synthetic_captions: prompts with 30 shots are too long")


def test_both_backbones_with_damaged_weights_are_named(folder, backbones, tmp_path):
    for part, name in (("vision", "clip_vision_model"), ("language", "gpt2")):
        shutil.copytree(backbones / name, tmp_path / part)
        (tmp_path / part / "model.safetensors").write_bytes(b"damaged")
    config = composed("train", *four_keys(folder, tmp_path, vision="vision", language="language"))
    assert [problem[:14] for problem in problems_of(config, tmp_path)] == ["model.vision: ", "model.language"]


@pytest.mark.parametrize("vision", ["clip_vision_model", "nowhere"])
def test_problems_of_splits_name_the_keys_of_the_splits(vision, backbones, tmp_path):
    data = own_set(tmp_path / "own", "a dog", split="day")
    overrides = four_keys(data, backbones, "data.split=night", "data.sample_split=noon", vision=vision)
    found = problems_of(composed("train", *overrides), tmp_path)
    own = [problem for problem in found if "vision" not in problem]
    assert [problem.partition(":")[0] for problem in own] == ["data.split=night", "data.sample_split=noon"]
    assert all("data.splits.make=true" in problem and "day" in problem for problem in own)
    overrides = four_keys(data, backbones, "data.splits.make=true", "data.splits.validation=0.85")
    [problem] = problems_of(composed("train", *overrides), tmp_path)
    assert problem.startswith("data.splits: ") and "data.splits.validation=0" in problem


def test_choices_for_what_cannot_be_read_are_not_logged(backbones, tmp_path, caplog):
    config = composed("train", *four_keys(tmp_path / "nowhere", backbones))
    with caplog.at_level(logging.INFO):
        problems_of(config, tmp_path)
    assert "training.steps" not in caplog.text and "warmup_steps" not in caplog.text


def test_a_run_of_another_config_is_one_problem_among_others(folder, backbones, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed": 1}))
    make_complete_state(tmp_path)
    config = composed("train", *four_keys(folder, backbones, "data.split=night", f"output={tmp_path}"))
    with pytest.raises(UserError) as caught:
        run_training(config, tmp_path)
    assert "overwrite=true" in str(caught.value) and "data.split=night" in str(caught.value)
    assert not (tmp_path / "failure.txt").exists()


def test_four_keys_and_the_steps_train(folder, backbones, tmp_path):
    few = ("training.steps=2", "training.save_every=1", "training.log_every=1", "training.sample_every=0")
    overrides = four_keys(folder, backbones, *few, f"output={tmp_path / 'run'}", vision="dinov2")
    run_training(composed("train", *overrides), tmp_path / "run")
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert recorded["data"]["documents"]["pairs"]["captions_per_image"] == 3
    assert "left_open" not in recorded and "dry_run" not in recorded
    saved = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert saved["vision_features"]["class_token"] == "drop"
    before = (tmp_path / "run" / "history.jsonl").stat().st_mtime_ns
    run_training(composed("train", *overrides), tmp_path / "run")  # it is trained already
    assert (tmp_path / "run" / "history.jsonl").stat().st_mtime_ns == before


@pytest.mark.full
def test_a_dry_run_shows_documents_and_leaves_an_image_behind(folder, backbones, tmp_path, caplog):
    overrides = four_keys(folder, backbones, "dry_run=true", f"output={tmp_path / 'runs' / 'own'}")
    with caplog.at_level(logging.INFO):
        run_training(composed("train", *overrides), tmp_path / "runs" / "own")
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["own.dry_run.png"]
    picture = PILImage.open(tmp_path / "runs" / "own.dry_run.png")
    assert picture.width > picture.height
    assert "<image>Output: a dog" in caplog.text
    for named in ("document 3", "left out: 0", "parameters of connector: ", "200 steps of", "memory: ", "12 pictures"):
        assert named in caplog.text


def test_estimates_count_each_part_of_a_training(folder, backbones, tmp_path, monkeypatch, caplog):
    measured = Measured(
        step=2.0,
        first_step=1.0,
        picture=0.5,
        samples=3.0,
        validation=2.5,
        state=4.0,
        checkpoint=5.0,
        rest=6.0,
        feature_bytes=1_000_000_000,
        state_bytes=3_000_000_000,
        checkpoint_bytes=2_500_000,
    )
    monkeypatch.setattr(dry_run, "peak_memory", lambda device, mapped: mapped)
    steps = ("training.steps=10", "training.sample_every=4", "training.save_every=5", "training.precision=fp32")
    prepared = prepare(composed("train", *four_keys(folder, backbones, *steps)), Run(tmp_path / "run", {}, FILES))
    config = replace(prepared.config, evaluate=[{"kind": "captions"}])
    with caplog.at_level(logging.INFO):
        dry_run._log_estimates(config, prepared.parts.records, measured, started=7.0)
        config.training.precision = "bf16"
        dry_run._log_estimates(config, prepared.parts.records, measured, started=7.0)
    # Of 10 training and 2 sample pictures; samples after the steps 4, 8 and 10, states after 5 and 10.
    assert f"time: 1 min 7 s: {7 + 1 + 6} s to start" in caplog.text
    parts = ("6 s for the features of 12", "20 s for 10 steps", "9 s for samples of answers (3x)", "13 s to save")
    for part in (*parts, "5 s for held-out documents (2x)"):
        assert part in caplog.text
    assert "1 evaluations, which follow" in caplog.text
    assert re.findall(r"memory: (\S+) GB", caplog.text) == ["12.00", "12.15"]  # in fp32, and in bf16 on a CPU
    assert "12.00 GB of features, 3.00 GB of a state (1 are kept), 2.5 MB of the checkpoint" in caplog.text


@pytest.mark.full
def test_a_training_in_bf16_on_a_cpu_warns_of_no_dtypes(folder, backbones, tmp_path):
    few = ("training.steps=1", "training.precision=bf16", "device=cpu", f"output={tmp_path / 'run'}")
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run_training(composed("train", *four_keys(folder, backbones, *few)), tmp_path / "run")
    finally:
        torch.set_warn_always(always)
    assert [str(warning.message) for warning in caught if "Mismatch dtype" in str(warning.message)] == []


def test_a_dry_run_on_the_command_line_has_no_folder():
    assert dry_run_arguments(["experiment=captions", "dry_run=true"]) == ["hydra.run.dir=.", "hydra/job_logging=stdout"]
    assert dry_run_arguments(["experiment=captions", "dry_run=false"]) == []
