"""Data sets of the hub: the files that are downloaded, where they are read, and errors without a connection."""

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from flamingo.data import hub_datasets
from flamingo.data.hub_datasets import downloaded
from flamingo.data.sources import open_source
from flamingo.utils.errors import UserError
from tests.data.readers.test_parquet_shards import shard


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set, whose cache is a folder. ``asked`` lists what was asked for."""
    asked = []

    def download(name, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision, allow_patterns))
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub_datasets, "snapshot_download", download)
    return asked


def test_the_files_of_a_data_set_are_read_from_the_cache(hub, tmp_path):
    (tmp_path / "cache" / "data").mkdir(parents=True)
    shard(tmp_path / "cache" / "data" / "train-00000-of-00001.parquet", [0, 1], text=["x", "y"])
    source = open_source("hf://datasets/owner/some.name")
    assert [(record.captions, record.split) for record in source] == [(("x",), "train"), (("y",), "train")]
    assert hub == [("owner/some.name", "dataset", None, None)]


@pytest.mark.parametrize(
    ("behind", "revision", "path"),
    [
        ("/", None, None),
        ("@v1.0", "v1.0", None),
        ("/data", None, "data"),
        ("@main/data/train-*.parquet", "main", "data/train-*.parquet"),
    ],
)
def test_a_revision_and_a_part_of_the_data_set_may_be_said(behind, revision, path, hub, tmp_path):
    place = downloaded(f"hf://datasets/owner/name{behind}")
    assert place == str(tmp_path / "cache" / path if path else tmp_path / "cache")
    patterns = [path, f"{path}/*"] if path else None
    assert hub == [("owner/name", "dataset", revision, patterns)]


@pytest.mark.parametrize("root", ["hf://datasets/name", "hf://owner/name", "hf:datasets/owner/name", "hf://datasets/"])
def test_another_address_is_refused_with_the_form_of_one(root, hub):
    with pytest.raises(UserError, match="hf://datasets/OWNER/NAME"):
        open_source(root)
    assert hub == []


def test_an_unreachable_hub_names_the_data_set_and_the_command(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder\nand a second line")

    monkeypatch.setattr(hub_datasets, "snapshot_download", download)
    with pytest.raises(UserError, match="hf download --repo-type dataset owner/name") as error:
        open_source("hf://datasets/owner/name")
    assert "\n" not in str(error.value)
