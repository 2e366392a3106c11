"""The command trains on pages of every layout, as their original writers make them, and on M4's captioned images."""

import json
import math

import pytest
import yaml

from experiments.cli.command import CONF
from experiments.runs.run_training import run_training
from flamingo.data.document import Image
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.pages.m4_writer import write_shards
from flamingo.data.records.record import Record
from flamingo.data.streams.shard_index import open_index
from tests.data.readers.page_files import picture
from tests.data.readers.page_layouts import LAYOUTS
from tests.helpers.configs import composed


def override(value):
    """A value as Hydra reads it on a command line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {override(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.full
def test_each_layout_is_trained_on(tmp_path):
    """One source a layout, each in a group of its own, and hence in a step of its own."""
    documents = yaml.safe_load((CONF / "web_document" / "obelics_m4.yaml").read_text())
    documents |= {"max_tokens": 64, "min_tokens": 1, "max_images": 4, "window_start": "beginning"}
    sources = {}
    for format, write in LAYOUTS.items():
        folder = tmp_path / format
        folder.mkdir()
        open_index(write(folder), format, cache=None)
        sources[format] = {"root": str(folder), "format": format, "epochs": 1, "documents": documents}
    image = Image(EmbeddedPicture("a", picture(1)))
    write_shards([Record("a", image, ("a caption",), None)], tmp_path / "m4_pairs", samples_per_shard=1)
    pairs = {"root": str(tmp_path / "m4_pairs"), "format": "m4_pairs", "epochs": 1, "documents": {"kind": "pairs"}}
    sources["m4_pairs"] = pairs
    entry = {"kind": "streamed", "batch_size": 1, "group_size": 8, "rows": 2, "pack_to": 64, "max_images": 4}
    entry |= {"streams": 1, "window": 10, "weight": 1.0, "sources": sources, "loss": {"kind": "next_token"}}
    config = composed(
        "train",
        *("data=streamed_pairs", "~data.documents.streamed", f"+data.documents.pages={override(entry)}"),
        *("debug=quick", "tracker=none", "training.validate_every=0", "training.sample_every=0"),
        f"training.steps={len(sources)}",
    )
    run_training(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == len(sources) and all(math.isfinite(loss) and loss > 0 for loss in losses)
