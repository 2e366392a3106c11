"""Captioned images as papers' data sets are distributed: what each reader finds, leaves out and refuses."""

import json
from pathlib import Path

import pytest

from flamingo.data.source_config import SourceConfig
from flamingo.data.sources import open_source, read_split
from flamingo.utils.errors import UserError
from tests.data.readers.caption_sets import CAPTION_SETS, DOMAINS, coco, nocaps, textcaps, vizwiz


def file_of(record):
    """The name of the image's file."""
    return Path(str(record.image.frames[0])).name


def changed(file, change):
    """Rewrites a JSON file with its changed content."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def test_coco_finds_the_images_of_its_part(tmp_path):
    coco(tmp_path, "train2014")
    source = open_source(str(coco(tmp_path)))
    assert [record.id for record in source] == ["1", "2", "3", "4", "5", "6"]
    assert file_of(source[1]) == "COCO_val2014_000000000001.png"
    assert source[1].captions == ("two cats sit on a mat today", "two cats sit on a mat 1")
    assert {record.group for record in source} == {None}


def test_nocaps_groups_images_by_domain(tmp_path):
    source = open_source(str(nocaps(tmp_path)))
    assert [(record.id, record.group) for record in source[:4]] == [
        ("0", "in-domain"),
        ("1", "near-domain"),
        ("2", "out-domain"),
        ("3", "in-domain"),
    ]
    assert tuple(record.group for record in source[:3]) == DOMAINS


def test_textcaps_joins_the_rows_of_an_image(tmp_path):
    textcaps(tmp_path, "train")
    source = open_source(str(textcaps(tmp_path)))
    assert len(source) == 6
    assert (source[2].id, source[2].split) == ("val00000000000002", "val")
    assert source[2].captions == ("a red ball 2", "a red ball today")
    assert file_of(source[2]) == "val00000000000002.jpg"


def test_rejected_captions_of_vizwiz_are_left_out_and_counted(tmp_path):
    file = vizwiz(tmp_path)
    source = read_split(str(file)).records
    assert [record.id for record in source] == ["0", "2", "3", "4", "5"]
    assert source[0].captions == ("a dog runs on the grass today",)
    assert source.skipped["1"] == "there is no caption"
    assert source.skipped[str(file)].endswith("3 of 12 captions")
    kept = read_split(str(file), SourceConfig(rejected_captions="keep"))
    assert (len(kept.records), len(kept.records[0].captions), kept.skipped) == (6, 2, {})


@pytest.mark.parametrize("name", CAPTION_SETS)
def test_a_missing_image_is_named_or_counted(tmp_path, name):
    file = CAPTION_SETS[name](tmp_path)
    before = read_split(str(file))
    path = Path(str(before.records[2].image.frames[0]))
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}.*broken_images=skip"):
        read_split(str(file))
    kept = read_split(str(file), SourceConfig(broken_images="skip"))
    assert len(kept.records) == len(before.records) - 1
    assert before.records[2].id in kept.skipped


@pytest.mark.parametrize("name", CAPTION_SETS)
def test_a_broken_image_is_named_or_counted(tmp_path, name):
    file = CAPTION_SETS[name](tmp_path)
    broken = open_source(str(file))[2]
    path = Path(str(broken.image.frames[0]))
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=rf"{path.name}.*broken_images=skip"):
        read_split(str(file))
    assert broken.id in read_split(str(file), SourceConfig(broken_images="skip")).skipped


@pytest.mark.parametrize("name", CAPTION_SETS)
@pytest.mark.parametrize("content", ["{", '{"data": [{"caption_str": 3}], "images": 3}'])
def test_a_broken_file_is_named(tmp_path, name, content):
    file = CAPTION_SETS[name](tmp_path)
    format = {"coco": "karpathy", "flickr30k": "karpathy", "textcaps": "textcaps"}.get(name, "coco")
    file.write_text(content)
    with pytest.raises(UserError, match=file.name):
        open_source(str(file), format=format)


@pytest.mark.parametrize(
    ("name", "rows", "field", "origin"),
    [
        ("coco", "images", "filename", r"images\[1\]"),
        ("flickr30k", "images", "filename", r"images\[1\]"),
        ("nocaps", "images", "file_name", r"images\[1\]"),
        ("nocaps", "annotations", "image_id", r"annotations\[1\]"),
        ("vizwiz_captions", "annotations", "caption", r"annotations\[1\]"),
        ("textcaps", "data", "image_id", r"data\[1\]"),
        ("textcaps", "data", "caption_str", r"data\[1\]"),
    ],
)
def test_a_missing_field_is_named_with_its_row(tmp_path, name, rows, field, origin):
    file = changed(CAPTION_SETS[name](tmp_path), lambda content: content[rows][1].pop(field))
    with pytest.raises(UserError, match=rf"{origin}.*'{field}'"):
        open_source(str(file))
