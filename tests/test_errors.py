"""A bug of the project or a lack of memory is never reported as a broken file of the user."""

import json

import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file

from flamingo.data import sources
from flamingo.data.readers import entries, parquet_shards, tar_shards
from flamingo.data.sources import open_source, readable
from flamingo.data.transforms.pictures import open_image
from flamingo.interop import weights
from flamingo.report import variants
from flamingo.utils.errors import UserError
from tests.experiments.conftest import shard


def raising(error):
    def function(*args, **kwargs):
        raise error

    return function


@pytest.fixture
def folder(tmp_path):
    """Photographs with captions, in a tar and by themselves."""
    PILImage.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "a.png", "captions": ["a dog"]}))
    shard(tmp_path / "train-000000.tar", range(2))
    return tmp_path


def test_a_lack_of_memory_is_no_broken_picture(folder, monkeypatch):
    monkeypatch.setattr("flamingo.data.transforms.pictures._rgb", raising(MemoryError()))
    with pytest.raises(MemoryError):
        open_image(folder / "a.png")
    with pytest.raises(MemoryError):
        readable(open_source(str(folder / "captions.jsonl")))


def test_a_lack_of_memory_is_no_damaged_checkpoint(tmp_path, monkeypatch):
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "load_file", raising(MemoryError()))
    with pytest.raises(MemoryError):
        weights.read_weights(tmp_path)


def test_a_lack_of_memory_is_no_broken_parquet_file(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(parquet_shards, "opened_table", raising(MemoryError()))
    (tmp_path / "a.parquet").touch()
    with pytest.raises(MemoryError):
        open_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("module", "name", "file"),
    [
        (tar_shards, "_captions", "train-000000.tar"),
        (entries, "captions_of", "captions.jsonl"),
        (sources, "open_image", "captions.jsonl"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_error_of_our_own_is_no_sample_that_is_left_out(folder, monkeypatch, module, name, file):
    monkeypatch.setattr(module, name, raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug") as caught:
        readable(open_source(str(folder / file)))
    assert not isinstance(caught.value, UserError)


def test_an_error_of_our_own_is_no_run_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "read_run", raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        variants.read_runs([tmp_path])
