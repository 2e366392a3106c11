"""An error of the tracker never ends a training."""

import json
import logging
import multiprocessing
import os

import pytest
import wandb
from PIL import Image as PILImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.runs.run_training import run_training
from experiments.trackers import check_tracker
from experiments.trackers.sample import Sample
from experiments.trackers.tracker import Tracker
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed
from tests.helpers.small_runs import SMALL_DEMO

CONFIG = composed("train", "wandb.project=tests")


def train_offline(output):
    os.environ["HOME"] = "/dev/null/home"
    config = composed("train", *SMALL_DEMO, "tracker=wandb", "training.sample_every=2", f"output={output}")
    run_training(config, output)


@pytest.mark.full
def test_wandb_writes_below_the_run_without_a_writable_home(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=train_offline, args=(tmp_path / "run",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "run" / "checkpoint").is_dir()
    [table] = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/predictions_4_*.json")
    assert len(json.loads(table.read_text())["data"]) == 4


class Broken:
    def log(self, values, step):
        raise OSError("no room")

    def finish(self, exit_code):
        raise wandb.errors.CommError("gone")


def test_a_broken_tracker_is_a_warning_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(CONFIG, tmp_path, main_process=True)
        tracker.log({"step": 1, "loss": 1.0})
        tracker.log({"step": 2, "loss": 1.0})
        tracker.attempt("a sample", lambda: 1 / 0)
        tracker.finish(failed=False)
    assert [record.getMessage() for record in caplog.records] == [
        "wandb has failed, and training continues: OSError: no room"
    ]


def test_a_tracker_that_cannot_start_tracks_nothing(tmp_path, monkeypatch, caplog):
    def init(**_):
        raise wandb.errors.UsageError("api_key not configured")

    monkeypatch.setattr(wandb, "init", init)
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(CONFIG, tmp_path, main_process=True)
        tracker.log({"step": 1, "loss": 1.0})
        tracker.finish(failed=True)
    assert len(caplog.records) == 1 and "api_key" in caplog.text


def test_ctrl_c_passes_through_a_sample(tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    tracker = Tracker(CONFIG, tmp_path, main_process=True)
    with pytest.raises(KeyboardInterrupt):
        tracker.attempt("a sample", interrupt)


def test_what_the_user_has_set_wins_and_nothing_is_left_set(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    monkeypatch.setenv("WANDB_CACHE_DIR", "/cache")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    monkeypatch.delenv("WANDB_CONSOLE", raising=False)
    tracker = Tracker(CONFIG, tmp_path, main_process=True)
    assert os.environ["WANDB_CACHE_DIR"] == "/cache"
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb" / "data")
    assert os.environ["WANDB_CONSOLE"] == "off"
    tracker.finish(failed=False)
    assert os.environ["WANDB_CACHE_DIR"] == "/cache" and "WANDB_DATA_DIR" not in os.environ


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_tracker_whose_package_is_missing_is_refused(monkeypatch, tracker):
    monkeypatch.setattr("experiments.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"tracker={tracker}.*flamingo\[{tracker}\]"):
        check_tracker("tracker", tracker)
    check_tracker("tracker", "none")


def test_other_processes_than_the_main_one_track_nothing(tmp_path):
    tracker = Tracker(composed("train", "tracker=tensorboard"), tmp_path, main_process=False)
    tracker.log({"step": 1, "loss": 1.0})
    tracker.finish(failed=False)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_the_scalars_the_samples_and_the_config(tmp_path):
    tracker = Tracker(composed("train", "tracker=tensorboard", "seed=7"), tmp_path, main_process=True)
    tracker.log({"step": 3, "loss": 1.5, "mfu": None, "gates": {"0.attention": 0.25}})
    picture = PILImage.new("RGB", (4, 2), "red")
    tracker.log_samples([Sample("first", picture, "Output:", "a | b", "a cat")], 3)
    tracker.finish(failed=False)
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert log.Tags()["scalars"] == ["loss", "gates/0.attention"]
    [scalar] = log.Scalars("gates/0.attention")
    assert (scalar.step, scalar.value) == (3, 0.25)
    [image] = log.Images("samples/first")
    assert (image.width, image.height) == (4, 2)
    [text] = log.Tensors("samples/text_summary")
    assert r"| first | Output: | a \| b | a cat |" in text.tensor_proto.string_val[0].decode()
    [config] = log.Tensors("config/text_summary")
    assert "seed: 7" in config.tensor_proto.string_val[0].decode()
