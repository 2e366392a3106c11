"""The files of images identify queries that the run was trained on."""

import pytest
import yaml

from experiments.schema import as_recorded
from experiments.setup.trained_images import trained_queries_warning, trained_records
from flamingo.data.sources import open_source
from tests.data.shelf import photographs, write
from tests.experiments.conftest import shard
from tests.helpers.configs import composed


@pytest.fixture
def own(tmp_path):
    """Six photographs with rows of captions."""
    names = [f"{letter}.png" for letter in "abcdef"]
    photographs(tmp_path / "own", *names)
    write(tmp_path / "own" / "rows.jsonl", [{"image": name, "caption": name, "split": "day"} for name in names])
    return tmp_path / "own"


def run_on(folder, root, *overrides):
    """The folder of a run whose config names the data."""
    given = ("experiment=captions", f"data.root={root}", "model.vision=x", "model.language=y", "data.split=null")
    config = as_recorded(composed("train", *given, "data.sample_split=null", "data.splits.make=null", *overrides))
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_queries_are_compared_by_the_files_of_their_images(own, tmp_path, monkeypatch):
    trained = open_source(str(own))
    (tmp_path / "link").symlink_to(own)
    monkeypatch.chdir(tmp_path)
    for root in ("own", "link"):
        warning = trained_queries_warning("mine", open_source(root)[2:], trained[:4])
        assert warning.startswith("mine: 2 of 4 queries ") and "task.query_split" in warning
    photographs(tmp_path / "other", "a.png")
    write(tmp_path / "other" / "rows.jsonl", [{"image": "a.png", "caption": "a"}])
    assert trained_queries_warning("mine", open_source("other"), trained) is None


def test_images_in_shards_are_compared_by_their_names(tmp_path):
    shard(tmp_path / "train-0.tar", range(4))
    shard(tmp_path / "train-1.tar", range(4), keys=range(4, 8))
    first, both = open_source(str(tmp_path / "train-0.tar")), open_source(str(tmp_path / "train-*.tar"))
    assert trained_queries_warning("mine", both, first).startswith("mine: 4 of 8 queries ")


@pytest.mark.parametrize("open_shards", [True, False])
def test_the_images_of_a_run_are_those_of_its_config(own, tmp_path, open_shards, caplog):
    assert trained_records(tmp_path, open_shards) == []
    records = trained_records(run_on(tmp_path / "run", own), open_shards)
    assert [record.id for record in records] == [f"{letter}.png" for letter in "abcdef"]
    gone = run_on(tmp_path / "gone", tmp_path / "nowhere")
    assert trained_records(gone, open_shards) == [] and "data.root=" in caplog.text
