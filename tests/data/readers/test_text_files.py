"""Images with a text file of the same name: pairs, splits, and files that are left out."""

import logging

import pytest

from flamingo.data.readers import Location
from flamingo.data.readers.text_files import text_files
from flamingo.data.sources import open_source
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, shows, write


def read(folder, captions_only=False):
    return text_files(Location((folder,), captions_only=captions_only))


def test_each_line_of_the_text_of_an_image_is_a_caption(tmp_path):
    photographs(tmp_path, "b.png", "a.jpg.png", "c.JPG")
    write(tmp_path / "b.txt", "One.\n\n Two. \n")
    write(tmp_path / "a.jpg.txt", "Dots.")
    write(tmp_path / "c.txt", "\ufeffCapital.")
    records = read(tmp_path)
    captions = {record.id: record.captions for record in records}
    assert captions == {"a.jpg.png": ("Dots.",), "b.png": ("One.", "Two."), "c.JPG": ("Capital.",)}
    assert shows(records[1], "b.png")
    assert records.skipped == {}


def test_a_split_is_known_by_the_name_of_its_sub_folder(tmp_path):
    for folder in ("train", "val", "cats", ""):
        photographs(tmp_path / folder, "a.png")
        write(tmp_path / folder / "a.txt", f"In {folder}.")
    splits = {record.id: record.split for record in open_source(str(tmp_path))}
    assert splits == {"a.png": None, "cats/a.png": None, "train/a.png": "train", "val/a.png": "val"}


def test_files_without_a_counterpart_are_counted_by_reason(tmp_path, caplog):
    photographs(tmp_path, "a.png", "b.png", "c.png", "d.png", "d.bmp")
    write(tmp_path / "a.txt", "Text.")
    write(tmp_path / "b.txt", " \n")
    write(tmp_path / "d.txt", "Of which?")
    write(tmp_path / "readme.txt", "About these.")
    with caplog.at_level(logging.WARNING):
        records = read(tmp_path)
    assert [record.id for record in records] == ["a.png"]
    assert records.skipped == {
        "b.png": "there is no caption",
        "c.png": "it has no text file",
        "d.bmp": "several images have one text file: d.bmp, d.png",
        "d.png": "several images have one text file: d.bmp, d.png",
        "readme.txt": "it has no image",
    }
    assert "several images have one text file (2, the first d.bmp)" in caplog.text
    assert len(read(tmp_path, captions_only=True)) == 1


def test_other_captions_beside_a_recognised_folder_are_ambiguous(tmp_path):
    photographs(tmp_path, "a.png")
    write(tmp_path / "a.txt", "image,caption\n")  # as Flickr's file begins
    write(tmp_path / "licence.txt", "Free.")
    assert [record.captions for record in open_source(str(tmp_path))] == [("image,caption",)]
    assert len(open_source(str(tmp_path / "a.txt"))) == 1
    write(tmp_path / "mine.jsonl", [{"image": "a.png", "caption": "A."}])
    with pytest.raises(UserError, match=r"text_files.*jsonl|jsonl.*text_files"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), format="jsonl")[0].captions == ("A.",)


def test_other_caption_formats_in_sub_folders_are_ignored(tmp_path):
    photographs(tmp_path / "pictures", "a.png")
    write(tmp_path / "pictures" / "captions.txt", "image,caption\na.png,A.\n")
    with pytest.raises(UserError, match="no data that can be read"):
        open_source(str(tmp_path))
