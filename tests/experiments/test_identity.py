"""A run continues only with its own weights, config, processor and data."""

import io
import json
import multiprocessing
import os
import shutil
import tarfile
from dataclasses import replace
from functools import partial

import pytest
from safetensors.torch import load_file, save_file

from experiments import evaluate, train
from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from flamingo.data.data_checksums import data_checksums
from flamingo.data.sources import open_source
from flamingo.results import append_predictions
from flamingo.training.state import StateFolder
from flamingo.utils.errors import UserError
from tests.experiments.conftest import shard
from tests.helpers.configs import composed
from tests.helpers.small_runs import ONE_SETTING, SMALL_DEMO, call_command, photograph_training


def edited(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def one_weight_changed(file):
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] += 1
    save_file(weights, file, metadata={"format": "pt"})


CHANGES = {
    "model.safetensors": one_weight_changed,
    "config.json": partial(edited, change=lambda config: config["fusion"].update(attend="previous")),
    "processor_config.json": partial(edited, change=lambda c: c["image_processor"].update(image_mean=[0.1, 0.2, 0.3])),
    "tokenizer_config.json": partial(edited, change=lambda config: config.update(model_max_length=99)),
    "tokenizer.json": partial(edited, change=lambda file: file["model"]["merges"].reverse()),
}


@pytest.mark.full
@pytest.mark.parametrize("name", CHANGES)
def test_another_checkpoint_is_refused_by_its_changed_file(demo, tmp_path, name):
    shutil.copytree(demo, tmp_path / "run")
    CHANGES[name](tmp_path / "run" / "checkpoint" / name)
    before = (tmp_path / "run" / "scores.json").read_bytes()
    with pytest.raises(UserError, match=rf"checkpoint\.{name} was"):
        run_evaluation(composed("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING, "seeds=[0,1]"))
    assert (tmp_path / "run" / "scores.json").read_bytes() == before


def test_another_task_and_checkpoint_are_refused_in_one_folder(demo, tmp_path):
    """The file would mix its scores with those of the first one."""
    shutil.copytree(demo, tmp_path / "run")
    one_weight_changed(tmp_path / "run" / "checkpoint" / "model.safetensors")
    before = (tmp_path / "run" / "scores.json").read_bytes()
    other = ("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING, "task=synthetic_questions")
    with pytest.raises(UserError, match=r"evaluate-synthetic_captions\.yaml.*model\.safetensors was"):
        run_evaluation(composed(*other))
    assert (tmp_path / "run" / "scores.json").read_bytes() == before
    run_evaluation(composed(*other, "overwrite=true"))
    assert {row["task"] for row in json.loads((tmp_path / "run" / "scores.json").read_text())} == {
        "synthetic_questions"
    }


def test_changes_without_effect_on_predictions_keep_them(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "run")
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    run_evaluation(composed("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING, "batch_size=1", "pictures=1"))
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before


def test_the_dtype_belongs_to_an_evaluation_but_not_the_device(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "run")
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    run_evaluation(composed("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING, "device=cpu"))
    with pytest.raises(UserError, match=r"dtype was 'auto', is 'bfloat16'"):
        run_evaluation(composed("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING, "dtype=bfloat16"))
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before


@pytest.mark.full
def test_the_dtype_belongs_to_a_training_but_not_the_device(tmp_path, monkeypatch):
    stopped(composed("train", *SMALL_DEMO, f"output={tmp_path}"), tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"dtype was 'auto', is 'bfloat16'"):
        run_training(composed("train", *SMALL_DEMO, f"output={tmp_path}", "dtype=bfloat16"), tmp_path)
    run_training(composed("train", *SMALL_DEMO, f"output={tmp_path}", "device=cpu"), tmp_path)
    assert (tmp_path / "checkpoint").is_dir()


# ------------------------------------------------------------------------------- data


@pytest.fixture
def own_shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    shard(folder / "train-000000.tar", range(8))
    shard(folder / "train-000001.tar", range(8, 14))
    shard(folder / "dev-000000.tar", range(20, 23))
    return folder


def stopped(config, output, monkeypatch):
    """A training that ends with an error after its first state."""
    save = StateFolder.save

    def save_and_end(self, progress):
        save(self, progress)
        raise ZeroDivisionError

    monkeypatch.setattr(StateFolder, "save", save_and_end)
    with pytest.raises(ZeroDivisionError):
        run_training(config, output)
    monkeypatch.undo()


def other_picture(folder):
    """The same ids, captions and sizes."""
    content = bytearray((folder / "train-000001.tar").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    (folder / "train-000001.tar").write_bytes(content)


def other_caption(folder):
    content = (folder / "train-000001.tar").read_bytes().replace(b"a dog 9", b"a cat 9")
    (folder / "train-000001.tar").write_bytes(content)


def other_split(folder):
    (folder / "train-000001.tar").rename(folder / "dev-000001.tar")


#: Changes of the data, and the checksum that differs after each.
OTHER_DATA = pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_caption, "data.captions"),
        pytest.param(other_picture, "data.files", marks=pytest.mark.full),
        pytest.param(other_split, "data", marks=pytest.mark.full),
    ],
)


@OTHER_DATA
def test_a_stopped_training_refuses_other_data(own_shards, backbones, tmp_path, monkeypatch, change, named):
    output = tmp_path / "run"
    config = photograph_training(
        own_shards, backbones, output, "features.folder=null", "data.documents.interleaved.similar_prob=0"
    )
    stopped(config, output, monkeypatch)
    change(own_shards)
    with pytest.raises(UserError, match=rf"contents\.{named}"):
        run_training(config, output)


@OTHER_DATA
def test_a_finished_training_reports_changed_data_without_images(
    own_shards, backbones, tmp_path, monkeypatch, change, named
):
    with tarfile.open(own_shards / "train-000002.tar", "w") as file:  # it is left out of training
        for name, content in (("0030.png", b"no picture"), ("0030.txt", b"a caption")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    output = tmp_path / "run"
    config = photograph_training(
        own_shards, backbones, output, "features.folder=null", "data.documents.interleaved.similar_prob=0"
    )
    run_training(config, output)
    before = files(output)
    monkeypatch.setattr("flamingo.data.sources.open_image", opened)
    monkeypatch.setattr("experiments.setup.build.build_model", opened)
    run_training(config, output)
    change(own_shards)
    with pytest.raises(UserError, match=rf"contents\.{named}"):
        run_training(config, output)
    assert before.items() <= files(output).items()


def opened(*_):
    raise AssertionError


@pytest.mark.full
def test_a_moved_training_continues_only_with_its_features(own_shards, backbones, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    anyone = "data.documents.interleaved.similar_prob=0"
    stopped(photograph_training(own_shards, backbones, here, anyone), here, monkeypatch)
    here.rename(there)
    with pytest.raises(UserError, match=r"contents\.features"):
        run_training(photograph_training(own_shards, backbones, there, anyone, "features.folder=null"), there)
    run_training(photograph_training(own_shards, backbones, there, anyone), there)
    assert (there / "checkpoint").is_dir()


def test_a_stopped_training_refuses_other_backbones(backbones, tmp_path, monkeypatch):
    language = tmp_path / "language"
    shutil.copytree(backbones / "gpt2", language)
    output = tmp_path / "run"
    short = ("data.documents.captions.min_images=1", "data.documents.captions.max_images=1")
    config = composed("train", *SMALL_DEMO, *short, f"output={output}", f"model.language={language}")
    stopped(config, output, monkeypatch)
    one_weight_changed(language / "model.safetensors")
    with pytest.raises(UserError, match=r"contents\.language\.model\.safetensors"):
        run_training(config, output)


def test_data_are_equal_at_any_place_and_time_of_writing(own_shards, tmp_path):
    shutil.copytree(own_shards, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    for file in (tmp_path / "elsewhere").iterdir():
        os.utime(file, (1, 1))
    found = data_checksums(open_source(str(own_shards)))
    assert data_checksums(open_source(str(tmp_path / "elsewhere"))) == found
    (tmp_path / "elsewhere" / "dev-000000.tar").rename(tmp_path / "elsewhere" / "dev-000007.tar")
    assert data_checksums(open_source(str(tmp_path / "elsewhere")))["files"] != found["files"]


# ------------------------------------------------------------------------------- owners and overwriting


@pytest.mark.parametrize("main", [train.main, evaluate.main], ids=["train", "evaluate"])
def test_the_second_process_with_one_output_is_refused(demo, tmp_path, capfd, main):
    output = tmp_path / "run"
    if main is evaluate.main:
        shutil.copytree(demo, output)
    own = (f"run={output}", *ONE_SETTING, "shots=[0,2]") if main is evaluate.main else (*SMALL_DEMO, f"output={output}")
    processes = multiprocessing.get_context("fork")
    started = [processes.Process(target=call_command, args=(main, *own)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert sorted(process.exitcode for process in started) == [0, 2]
    winner = next(process for process in started if process.exitcode == 0)
    said = capfd.readouterr().err
    assert f"error: {output} is in use by process {winner.pid} on" in said and "Traceback" not in said
    if main is train.main:
        steps = [json.loads(line)["step"] for line in (output / "history.jsonl").read_text().splitlines()]
        assert steps == [1, 2, 3, 4]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.full
def test_a_finished_run_returns_if_its_successor_has_no_state(demo, tmp_path, monkeypatch):
    shutil.copytree(demo, tmp_path / "run")
    before = files(tmp_path / "run")
    config = composed("train", *SMALL_DEMO, f"output={tmp_path / 'run'}", "overwrite=true", "optimizer.lr=0.02")

    def diverged(*_):
        assert not (tmp_path / "run" / "checkpoint").exists()
        raise UserError("the loss of step 1 is not finite")

    monkeypatch.setattr("flamingo.training.loop.accumulate_gradients", diverged)
    with pytest.raises(UserError, match="not finite"):
        run_training(config, tmp_path / "run")
    assert files(tmp_path / "run") == before
    monkeypatch.undo()
    run_training(config, tmp_path / "run")
    assert not (tmp_path / "run" / ".previous").exists() and not (tmp_path / "run" / "scores.json").exists()


def test_results_return_if_their_successor_has_no_predictions(demo, tmp_path, monkeypatch):
    shutil.copytree(demo, tmp_path / "run")
    before = files(tmp_path / "run")
    again = composed("evaluate", f"run={tmp_path / 'run'}", *ONE_SETTING, "task.num_queries=3", "overwrite=true")

    def interrupt(*_):
        assert not (tmp_path / "run" / "predictions.jsonl").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("flamingo.evaluation.predicting._predict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(again)
    assert files(tmp_path / "run") == before
    monkeypatch.undo()
    run_evaluation(again)
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 3


@pytest.mark.full
def test_a_new_training_stays_from_its_first_state_on(demo, tmp_path, monkeypatch):
    """It ends when the state is complete and the earlier run is still set aside."""
    output = tmp_path / "run"
    shutil.copytree(demo, output)
    config = composed("train", *SMALL_DEMO, f"output={output}", "overwrite=true", "optimizer.lr=0.02")
    stopped(config, output, monkeypatch)
    assert not (output / ".previous").exists() and not (output / "checkpoint").exists()
    assert len(list((output / "state").glob("step-*/complete.json"))) == 1
    run_training(replace(config, overwrite=False), output)
    assert (output / "checkpoint").is_dir()


def test_a_new_evaluation_stays_from_its_first_predictions_on(demo, tmp_path, monkeypatch):
    output = tmp_path / "run"
    shutil.copytree(demo, output)
    again = composed("evaluate", f"run={output}", *ONE_SETTING, "task.num_queries=3", "overwrite=true")

    def append_and_end(file, rows):
        append_predictions(file, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr("flamingo.evaluation.harness.append_predictions", append_and_end)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(again)
    assert not (output / ".previous").exists() and not (output / "scores.json").exists()
    assert len((output / "predictions.jsonl").read_text().splitlines()) == 3
