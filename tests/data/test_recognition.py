"""A format is recognised by its line of READERS, as a folder and as a file."""

import json

import pytest

from flamingo.data.readers import READERS, Format, candidate
from flamingo.data.recognition import recognise, recognised
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json
from tests.data.shelf import write

KARPATHY = {"images": [{"filename": "a.png", "sentences": [{"raw": "A."}]}]}


def is_bars(found):
    """Whether the first line has a bar."""
    return "|" in found.first_line


@pytest.mark.parametrize(
    ("name", "recognise_by"),
    [("captions.tsv", None), ("captions.txt", "tests.data.test_recognition:is_bars")],
    ids=["by its name", "by a function"],
)
def test_a_new_format_is_recognised_by_its_line(name, recognise_by, monkeypatch, tmp_path):
    pattern = "*" + name[-4:]
    monkeypatch.setitem(READERS, "new", Format("new", "no.module:reader", (pattern,), recognise_by))
    write(tmp_path / name, "a.png|A.\n")
    write(tmp_path / "readme.md", "a|b\n")
    assert recognise(str(tmp_path / name), None) == ("new", [tmp_path / name])
    assert recognise(str(tmp_path), None) == ("new", [tmp_path / name])
    assert recognise(str(tmp_path), "new") == ("new", [tmp_path / name])
    with pytest.raises(UserError, match="as coco"):
        recognise(str(tmp_path), "coco")


def test_files_of_a_format_below_the_folder_are_found_too(monkeypatch, tmp_path):
    monkeypatch.setitem(READERS, "new", Format("new", "no.module:reader", ("texts/*.tsv",), sharded=True))
    files = [write(tmp_path / "texts" / name, "a") for name in ("a.tsv", "b.tsv")]
    write(tmp_path / "c.tsv", "a")
    assert recognise(str(tmp_path), None) == ("new", files)


def test_names_decide_before_contents(tmp_path):
    """Rows with an image are of the format jsonl, but not in the file of an image folder."""
    rows = [{"image": "a.png", "file_name": "a.png", "text": "A."}]
    assert recognised(write(tmp_path / "rows.txt", rows)) == "jsonl"
    assert recognised(write(tmp_path / "rows.json", rows[0])) is None
    (tmp_path / "rows.txt").unlink()
    write(tmp_path / "metadata.jsonl", rows)
    write(tmp_path / "metadata.json", KARPATHY)  # of no use to us
    assert recognise(str(tmp_path), None) == ("image_folder", [tmp_path])


def test_a_json_file_is_parsed_once_for_all_formats(monkeypatch, tmp_path):
    parsed = []

    def counted(path):
        parsed.append(path)
        return read_json(path)

    monkeypatch.setattr(candidate, "read_json", counted)
    file = write(tmp_path / "dataset.json", KARPATHY)
    assert recognised(file) == "karpathy"
    assert parsed == [file]


@pytest.mark.parametrize("content", [3, {"images": {"a": 1}}, {"images": []}, {"images": ["a"]}, {"annotations": [3]}])
def test_other_json_is_of_no_format(content, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    assert recognised(file) is None
