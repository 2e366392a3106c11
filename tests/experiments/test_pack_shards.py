"""The command that packs: counts of what is left out, an index beside each shard, and nothing after an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs.run_packing import run_packing
from flamingo.data.streams.shard_index import kept_index
from flamingo.data.transforms.pictures import frame_bytes
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import contents, picture, read_pages
from tests.helpers.configs import composed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Two shards with three good pages, three broken lines and two images without a picture; and a broken shard."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(picture(1, "PNG"))
    rows = []
    for name in ("a.png", "../a.png", "none.png"):
        content = [{"type": "text", "text": f"text of {name}"}, {"type": "image", "image": name}]
        rows.append(json.dumps({"id": name, "content": content}))
    (tmp_path / "data" / "0.jsonl").write_text("\n".join(["{", rows[0], rows[1]]))
    (tmp_path / "data" / "1.jsonl").write_text("\n".join([rows[2], '{"contents": []}', "{"]))
    (tmp_path / "data" / "2.jsonl").mkdir()
    return tmp_path


def packed(folder, *overrides):
    places = (f"root={folder / 'data'}", f"output={folder / 'packed'}")
    return run_packing(composed("pack_shards", *places, *overrides))


def test_all_pages_are_packed_and_what_is_left_out_is_counted(folder):
    result = packed(folder, "format=page_rows", "samples_per_shard=2")
    assert result.shards == [folder / "packed" / "000000.tar", folder / "packed" / "000001.tar"]
    assert result.num_samples == 3
    assert result.drops == {
        "page: the page is not JSON": 2,
        "page: unknown field": 1,
        "image: path outside the data folder": 1,
        "image: image missing": 1,
        "shard that cannot be read": 1,
    }
    pages = [page for shard in result.shards for page in read_pages("m4", shard)]
    assert [contents(page)[::2] for page in pages] == [
        ("a.png", ["text of a.png", ("a.png", picture(1, "PNG"))], None),
        ("../a.png", ["text of ../a.png", ("../a.png", "path outside the data folder")], None),
        ("none.png", ["text of none.png", ("none.png", "image missing")], None),
    ]
    assert [len(kept_index(shard, "m4", None)) for shard in result.shards] == [2, 1]


def test_without_a_page_nothing_is_written(folder):
    (folder / "data" / "0.jsonl").write_text("{")
    (folder / "data" / "1.jsonl").write_text("")
    with pytest.raises(UserError, match=r"the page is not JSON \(1\)"):
        packed(folder, "format=page_rows")
    assert sorted(path.name for path in folder.iterdir()) == ["data"]


def test_an_output_that_exists_is_kept(folder):
    (folder / "packed").mkdir()
    with pytest.raises(UserError, match="output="):
        packed(folder, "format=page_rows")


def test_captioned_images_are_packed_as_pairs(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture(ord(name[0]), "PNG"))
    rows = [{"image": "a.png", "captions": ["A cat .", "A dog ."], "split": "val"}, {"image": "b.png", "caption": " "}]
    rows += [{"image": "gone.png", "caption": "c"}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = packed(tmp_path)
    assert (result.num_samples, len(result.shards)) == (1, 1)
    assert result.drops == {"image: a caption is empty": 1, "image: the image file does not exist": 1}
    (pair,) = read_pages("m4_pairs", result.shards[0])
    assert (pair.id, pair.captions, pair.split) == ("a.png", ("A cat .", "A dog ."), "val")
    assert frame_bytes(pair.image.frames[0]) == picture(ord("a"), "PNG")
    assert len(kept_index(result.shards[0], "m4_pairs", None)) == 1


def test_questions_are_not_packed():
    with pytest.raises(UserError, match="format"):
        composed("pack_shards", "format=vqa")


@pytest.mark.full
def test_the_command_packs(folder):
    arguments = [f"root={folder / 'data'}", "format=page_rows", f"output={folder / 'packed'}"]
    command = [sys.executable, "-m", "experiments.pack_shards", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "3 samples in 1 tar files" in run.stdout
