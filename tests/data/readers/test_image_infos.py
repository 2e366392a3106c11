"""Lists of images without captions: what is read, what is left out, and where captions are needed."""

import json

import pytest

from flamingo.data.recognition import recognised
from flamingo.data.source_config import SourceConfig
from flamingo.data.sources import open_source, read_split
from flamingo.utils.errors import UserError
from tests.data.readers.caption_sets import TEST_SETS, coco, image_infos, nocaps, textcaps_test
from tests.data.shelf import write


@pytest.mark.parametrize("name", TEST_SETS)
def test_images_have_the_ids_of_a_file_of_results(tmp_path, name):
    file = TEST_SETS[name](tmp_path)
    assert recognised(file) == "image_infos"
    records = open_source(str(file), needs_captions=False)
    ids = [f"{number:016}" for number in range(4)] if name == "textcaps" else [70, 71, 72, 73]
    assert [record.image_id for record in records] == ids
    assert [record.id for record in records] == [str(id) for id in ids]
    assert {(record.captions, record.split) for record in records} == {((), "test")}
    with pytest.raises(UserError, match=rf"^root=.*{file.name} lists images without captions"):
        read_split(str(file))


def test_files_with_captions_have_ids_of_results_too(tmp_path):
    assert [record.image_id for record in open_source(str(coco(tmp_path, count=2)))] == [1, 2]


def test_a_folder_is_read_as_its_captions(tmp_path):
    """A list of images lies next to the captions of another part."""
    nocaps(tmp_path)
    TEST_SETS["nocaps"](tmp_path)
    assert open_source(str(tmp_path)).records[0].group == "in-domain"
    image_infos(tmp_path / "other")
    with pytest.raises(UserError, match="formats are"):
        open_source(str(tmp_path / "other"), needs_captions=False)


def test_a_list_of_other_annotations_has_no_images_to_caption(tmp_path):
    """COCO's instances_*.json lists images, too."""
    file = image_infos(tmp_path)
    content = json.loads(file.read_text())
    write(file, content | {"annotations": [{"image_id": 70, "bbox": [0, 0, 1, 1]}]})
    with pytest.raises(UserError, match="formats are"):
        open_source(str(file), needs_captions=False)


@pytest.mark.parametrize("write_file", [image_infos, textcaps_test])
def test_broken_files_fields_and_images_are_named(tmp_path, write_file):
    file = write_file(tmp_path)
    content = file.read_text()
    rows, field = ("data", "image_id") if write_file is textcaps_test else ("images", "id")
    for change in (lambda row: row.pop(field), lambda row: row.update({field: [1]})):
        changed = json.loads(content)
        change(changed[rows][1])
        write(file, changed)
        with pytest.raises(UserError, match=rf"{file.name}, {rows}\[1\].*'{field}'"):
            open_source(str(file), needs_captions=False)
    twice = json.loads(content)
    twice[rows].append(twice[rows][0])
    write(file, twice)
    if write_file is textcaps_test:
        assert len(open_source(str(file), needs_captions=False)) == 4
    else:
        with pytest.raises(UserError, match=r"images\[4\] repeats .*images\[0\]"):
            open_source(str(file), needs_captions=False)
    write(file, content[:-20])
    with pytest.raises(UserError, match=file.name):
        open_source(str(file), format="image_infos", needs_captions=False)
    write(file, content)
    [image, *_] = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg"))
    image.write_bytes(b"no picture")
    with pytest.raises(UserError, match=image.name):
        read_split(str(file), needs_captions=False)
    image.unlink()
    with pytest.raises(UserError, match=rf"{image.name}.*broken_images=skip"):
        read_split(str(file), needs_captions=False)
    kept = read_split(str(file), SourceConfig(broken_images="skip"), needs_captions=False)
    assert len(kept.records) == 3 and len(kept.skipped) == 1
