"""VisDial, NLVR2 and Winoground as they are distributed: what each reader finds, leaves out and refuses."""

import json

import pytest

from flamingo.data.source_config import SourceConfig
from flamingo.data.sources import open_source, read_split
from flamingo.utils.errors import UserError
from tests.data.readers.benchmark_files import ANSWERS, nlvr2_layout, visdial_layout, winoground_layout
from tests.data.readers.test_questions import file_of

#: The function that writes a data set of two, its format, and whether its records are questions.
SETS = {
    "visdial": (lambda folder: visdial_layout(folder, "val", 2), None, True),
    "nlvr2": (lambda folder: nlvr2_layout(folder, "dev", 2), "nlvr2", True),
    "winoground": (lambda folder: winoground_layout(folder, 2), None, False),
}


def change(file, make):
    """Changes the content of a file of JSON, or the first of its JSON lines."""
    if file.name.startswith("visdial"):
        content = json.loads(file.read_text())
        make(content["data"]["dialogs"][0])
        file.write_text(json.dumps(content))
        return
    first, *rest = file.read_text().splitlines()
    row = json.loads(first)
    make(row)
    file.write_text("\n".join([json.dumps(row), *rest]))


def test_dialogues_have_history_candidates_and_relevance(tmp_path):
    file = visdial_layout(tmp_path, "val", 2)
    source = open_source(str(file), questions=True)
    assert [record.id for record in source] == [f"{number}/{turn}" for number in (100, 101) for turn in (1, 2, 3)]
    second = source[1]
    assert (second.caption, second.question, second.captions) == ("picture 0", "is it new?", ("yes",))
    assert second.history == (("is it old?", "no"),)
    assert second.options == ANSWERS and second.relevance == (0.0, 1.0, 0.5, 0.0, 0.0, 0.0)
    assert source[0].relevance is None and not second.is_last and source[2].is_last
    assert file_of(source[3]) == "VisualDialog_val2018_000000000101.jpg"


def test_images_of_training_dialogues_are_in_two_parts_of_coco(tmp_path):
    file = visdial_layout(tmp_path, "train", 2)
    image = tmp_path / "images_train" / "COCO_train2014_000000000011.jpg"
    (tmp_path / "val2014").mkdir()
    image.rename(tmp_path / "val2014" / "COCO_val2014_000000000011.jpg")
    source = open_source(str(file), questions=True)
    assert file_of(source[0]) == "COCO_train2014_000000000010.jpg"
    assert file_of(source[3]) == "COCO_val2014_000000000011.jpg"
    assert all(record.relevance is None for record in source)


def test_relevances_of_training_dialogues_have_another_name(tmp_path):
    file = visdial_layout(tmp_path, "train", 1)
    annotation = [{"image_id": 10, "round_id": 1, "relevance": [1, 0, 0, 0, 0, 0]}]
    (tmp_path / "visdial_1.0_train_dense_annotations.json").write_text(json.dumps(annotation))
    assert open_source(str(file), questions=True)[0].relevance == (1.0, 0, 0, 0, 0, 0)
    annotation[0]["relevance"].pop()
    (tmp_path / "visdial_1.0_train_dense_annotations.json").write_text(json.dumps(annotation))
    with pytest.raises(UserError, match=r"dialogs\[0\], round 1 has 6 .*5"):
        open_source(str(file), questions=True)


def test_only_the_last_round_of_a_test_dialogue_is_open(tmp_path):
    file = visdial_layout(tmp_path, "test", 1)

    def unanswered(dialog):
        del dialog["dialog"][2]["answer"]
        for turn in dialog["dialog"][:2]:
            del turn["answer_options"]

    change(file, unanswered)
    source = open_source(str(file), questions=True)
    assert source[2].captions == () and source[2].options == ANSWERS and source[1].options == ()
    change(file, lambda dialog: dialog["dialog"][0].pop("answer"))
    with pytest.raises(UserError, match=r"dialogs\[0\], round 1 needs 'answer'"):
        open_source(str(file), questions=True)


def test_a_statement_has_two_images_and_a_label(tmp_path):
    file = nlvr2_layout(tmp_path, "dev", 2)
    first, second = open_source(str(file), format="nlvr2", questions=True)
    assert (first.id, first.question, first.captions) == ("dev-0-0-0", "There are 0.", ("true",))
    assert second.captions == ("false",)
    names = [str(image.frames[0]).rsplit("/", 1)[1] for image in second.images]
    assert names == ["dev-0-1-img0.png", "dev-0-1-img1.png"]


def test_pairs_have_each_others_captions(tmp_path):
    file = winoground_layout(tmp_path, 2)
    source = open_source(str(file))
    assert [record.id for record in source] == ["0/0", "0/1", "1/0", "1/1"]
    last = source[3]
    assert (last.pair, last.captions, last.other_caption) == ("1", ("a mat on 1 dogs",), "1 dogs on a mat")
    assert file_of(last) == "ex_1_img_1.png"


@pytest.mark.parametrize("name", SETS)
def test_a_file_that_is_not_json_is_named(tmp_path, name):
    layout, _, questions = SETS[name]
    file = layout(tmp_path)
    file.write_text(file.read_text()[:-5])
    with pytest.raises(UserError, match=file.name):
        open_source(str(file), format=name, questions=questions)


@pytest.mark.parametrize(
    ("name", "field", "place"),
    [
        ("visdial", "caption", r"dialogs\[0\]"),
        ("visdial", "dialog", r"dialogs\[0\]"),
        ("nlvr2", "sentence", "line 1"),
        ("nlvr2", "identifier", "line 1"),
        ("winoground", "image_1", "line 1"),
        ("winoground", "caption_0", "line 1"),
    ],
)
def test_a_missing_field_is_named(tmp_path, name, field, place):
    layout, _, questions = SETS[name]
    file = layout(tmp_path)
    change(file, lambda row: row.pop(field))
    with pytest.raises(UserError, match=rf"{place} needs '{field}'"):
        open_source(str(file), format=name, questions=questions)


@pytest.mark.parametrize(
    ("name", "make", "wrong"),
    [
        ("visdial", lambda row: row["dialog"][1]["answer_options"].append(6), "6 texts, got 6"),
        ("nlvr2", lambda row: row.update(label="maybe"), "'maybe'"),
        ("nlvr2", lambda row: row.update(identifier="dev-0"), "'dev-0'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, name, make, wrong):
    layout, _, questions = SETS[name]
    file = layout(tmp_path)
    change(file, make)
    with pytest.raises(UserError, match=wrong):
        open_source(str(file), format=name, questions=questions)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("visdial", "images_val/VisualDialog_val2018_000000000101.jpg"),
        ("nlvr2", "images_dev/dev-0-1-img1.png"),
        ("winoground", "images/ex_1_img_0.png"),
    ],
)
def test_a_missing_or_broken_image_is_named_or_left_out(tmp_path, name, image):
    layout, format, questions = SETS[name]
    file = layout(tmp_path)
    skip = SourceConfig(broken_images="skip", format=format)
    every = len(read_split(str(file), skip, questions=questions).records)
    path = tmp_path / image
    path.write_text("no picture")
    with pytest.raises(UserError, match=path.name):
        read_split(str(file), SourceConfig(format=format), questions=questions)
    assert len(read_split(str(file), skip, questions=questions).records) < every
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        read_split(str(file), SourceConfig(format=format), questions=questions)
    left = read_split(str(file), skip, questions=questions)
    assert len(left.records) == every // 2 and left.skipped
