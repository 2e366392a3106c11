"""Question-answer data as they are distributed: what each reader finds, leaves out and refuses."""

import gzip
import json
from pathlib import Path

import pytest

from flamingo.data.records.question_record import chosen_answer
from flamingo.data.source_config import SourceConfig
from flamingo.data.sources import open_source, read_split
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, write


def file_of(record):
    """The name of the image's file."""
    return Path(str(record.image.frames[0])).name


ANSWERS = [{"answer": text, "answer_id": id} for id, text in enumerate(("red", "dark red", "red"), start=1)]


def coco_style(folder, prefix="v2_", part="val2014", **changes):
    """Two questions about image 42 and one about image 7, the last without an annotation."""
    photographs(folder / part, f"COCO_{part}_000000000042.jpg", f"COCO_{part}_000000000007.jpg")
    questions = [
        {"image_id": 42, "question": "What color\nis it? ", "question_id": 420},
        {"image_id": 42, "question": "Is it?", "question_id": 421},
        {"image_id": 7, "question": "How many?", "question_id": 70},
    ]
    annotation = {"question_id": 420, "image_id": 42, "question_type": "what color", "answer_type": "other"}
    annotations = [
        annotation | {"answers": ANSWERS},
        {"question_id": 421, "image_id": 42, "answers": [{"answer": "yes"}]},
    ]
    write(folder / f"{prefix}mscoco_{part}_annotations.json", {"annotations": annotations} | changes)
    return write(folder / f"{prefix}OpenEnded_mscoco_{part}_questions.json", {"questions": questions})


def textvqa(folder, rows=None):
    photographs(folder / "train_images", "0a1.jpg", "0b2.jpg")
    row = {"question_id": 34602, "question": "what is it?", "image_id": "0a1", "set_name": "val", "answers": ["a", "b"]}
    return write(
        folder / "TextVQA_0.5.1_val.json", {"data": rows or [row, row | {"question_id": 3, "image_id": "0b2"}]}
    )


def vizwiz(folder, rows=None):
    photographs(folder / "val", "VizWiz_val_00000000.jpg", "VizWiz_val_00000001.jpg")
    answers = [{"answer": "cat", "answer_confidence": "yes"}, {"answer": "", "answer_confidence": "no"}]
    row = {"image": "VizWiz_val_00000000.jpg", "question": "What?", "answers": answers, "answer_type": "other"}
    other = {"image": "VizWiz_val_00000001.jpg", "question": "This?", "answers": answers[1:], "answer_type": "other"}
    file = folder / "annotations" / "val.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows or [row, other]))
    return file


def row_file(folder, rows=None):
    photographs(folder, "a.png", "b.png")
    rows = rows or [{"image": "a.png", "question": "What?", "answers": ["x", "y"], "split": "test"}]
    return write(folder / "questions.jsonl", rows)


@pytest.mark.parametrize("prefix", ["v2_", ""])
@pytest.mark.parametrize("named", ["the folder", "the file"])
def test_coco_style_questions_find_answers_and_images(tmp_path, prefix, named):
    file = coco_style(tmp_path, prefix)
    source = open_source(str(tmp_path if named == "the folder" else file), questions=True)
    first, second = source
    assert (first.id, first.question, first.captions) == ("420", "What color is it?", ("red", "dark red", "red"))
    assert (first.question_type, first.answer_type, first.split) == ("what color", "other", None)
    assert first.result_id == ("question_id", 420)
    assert (second.captions, second.question_type, second.answer_type) == (("yes",), None, None)
    assert file_of(first) == "COCO_val2014_000000000042.jpg"
    assert source.skipped == {"70": "there is no answer"}


def test_a_test_set_has_questions_without_answers(tmp_path):
    file = coco_style(tmp_path, part="test2015")
    (tmp_path / "v2_mscoco_test2015_annotations.json").unlink()
    assert [record.captions for record in open_source(str(file), questions=True)] == [(), (), ()]
    row = {"question_id": 1, "question": "what is it?", "image_id": "0a1", "set_name": "test"}
    assert open_source(str(textvqa(tmp_path / "text", [row])), questions=True)[0].captions == ()


def test_openflamingo_files_name_images_by_text(tmp_path):
    """Its files may be compressed."""
    photographs(tmp_path / "images", "VizWiz_val_00000000.jpg", "0a1.jpg")
    questions = [{"question": "What?", "image_id": "VizWiz_val_00000000.jpg", "question_id": 0}]
    questions.append({"question": "Where?", "image_id": "0a1", "question_id": 1})
    annotations = [{"question_id": id, "question_type": "other", "answers": ANSWERS} for id in (1, 0)]
    contents = {"questions": {"questions": questions}, "annotations": {"annotations": annotations}}
    for name, content in contents.items():
        with gzip.open(tmp_path / f"val_{name}_vqa_format.json.gz", "wt") as file:
            json.dump(content, file)
    records = open_source(str(tmp_path), questions=True)
    assert [(record.id, len(record.captions)) for record in records] == [("0", 3), ("1", 3)]
    assert file_of(records[1]) == "0a1.jpg"


def test_textvqa_has_its_set_as_split(tmp_path):
    [first, second] = open_source(str(textvqa(tmp_path)), questions=True)
    assert (first.id, first.split, first.captions, second.id) == ("34602", "val", ("a", "b"), "3")
    assert file_of(second) == "0b2.jpg"


def test_vizwiz_is_named_by_its_images(tmp_path):
    source = open_source(str(vizwiz(tmp_path)), questions=True)
    [record] = source
    assert record.result_id == ("image", "VizWiz_val_00000000.jpg")
    assert (record.captions, record.answer_type) == (("cat", ""), "other")  # all ten answers count in the accuracy
    assert source.skipped == {"VizWiz_val_00000001.jpg": "there is no answer"}


def test_rows_have_answers_or_one_answer(tmp_path):
    rows = [{"image": "a.png", "question": "What?", "answers": ["x", "y"], "split": "test"}]
    rows.append({"image": "a.png", "question": "Who?", "answer": "z", "id": "q7", "question_type": "who"})
    first, second = open_source(str(row_file(tmp_path, rows)), questions=True)
    assert (first.id, first.captions, first.split) == ("1", ("x", "y"), "test")
    assert (second.id, second.captions, second.question_type) == ("q7", ("z",), "who")


LAYOUTS = {"vqa": coco_style, "textvqa": textvqa, "vizwiz": vizwiz, "questions": row_file}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_image_is_named_or_counted(tmp_path, layout):
    file = LAYOUTS[layout](tmp_path)
    before = len(open_source(str(file), questions=True))
    row_file(tmp_path, [{"image": name, "question": "What?", "answer": "x"} for name in ("a.png", "b.png")])
    image = {"vqa": "*7.jpg", "textvqa": "*b2.jpg", "vizwiz": "*1.jpg", "questions": "b.png"}[layout]
    [path] = tmp_path.rglob(image)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}.*broken_images=skip"):
        read_split(str(file), questions=True)
    kept = read_split(str(file), SourceConfig(broken_images="skip"), questions=True)
    assert len(kept.records) == min(before, 1 + (layout == "vqa"))
    assert len(kept.skipped) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_broken_image_is_named_or_counted(tmp_path, layout):
    file = LAYOUTS[layout](tmp_path)
    image = {"vqa": "*42.jpg", "textvqa": "*a1.jpg", "vizwiz": "*0.jpg", "questions": "a.png"}[layout]
    [path] = tmp_path.rglob(image)
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=path.name):
        read_split(str(file), questions=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("content", ["{", "[3", '{"questions": [{"question_id": 1}]}'])
def test_a_broken_file_is_named(tmp_path, layout, content):
    file = LAYOUTS[layout](tmp_path)
    file.write_text(content)
    with pytest.raises(UserError, match=file.name):
        open_source(str(file), format=layout, questions=True)


@pytest.mark.parametrize(
    ("layout", "content", "named"),
    [
        ("vqa", {"questions": [{"question_id": 1, "image_id": 42}]}, r"questions\[0\].*'question'"),
        ("vqa", {"questions": [{"question": "a?", "image_id": 42}]}, r"questions\[0\].*'question_id'"),
        ("textvqa", {"data": [{"question_id": 1, "question": "a?"}]}, r"data\[0\].*'image_id'"),
        ("textvqa", {"data": [{"question_id": 1, "question": "a?", "image_id": "0a1", "answers": [3]}]}, "3"),
        ("questions", [{"image": "a.png", "question": "a?", "label": 1}], r"line 1.*'label'"),
        ("questions", [{"image": "a.png", "question": "a?", "answer": 3}], r"line 1.*'answer'"),
        ("questions", [{"image": "a.png", "question": "a?", "answer": "x", "answers": []}], "both"),
        ("questions", [{"image": "a.png", "question": "a?", "id": 1}] * 2, "repeats.*'1'"),
    ],
)
def test_a_missing_or_wrong_field_is_named_with_its_row(tmp_path, layout, content, named):
    file = LAYOUTS[layout](tmp_path)
    write(file, content)
    with pytest.raises(UserError, match=named):
        open_source(str(file), format=layout, questions=True)


def test_vizwiz_rows_without_a_question_are_named(tmp_path):
    file = vizwiz(tmp_path, [{"image": "VizWiz_val_00000000.jpg", "answers": []}])
    with pytest.raises(UserError, match=r"val.json\[0\].*'question'"):
        open_source(str(file), format="vizwiz", questions=True)


def test_questions_that_cannot_be_asked_are_counted(tmp_path):
    row = {"image": "a.png", "question": "What?", "answers": ["x"]}
    rows = [row, row | {"question": " \n"}, row | {"answers": [" "]}, row | {"answers": ["\ud800"]}]
    source = open_source(str(row_file(tmp_path, rows)), questions=True)
    assert [record.id for record in source] == ["1"]
    assert {id: reason.partition(":")[0] for id, reason in source.skipped.items()} == {
        "2": "a question is empty",
        "3": "there is no answer",
        "4": "a text has half a character",
    }


def test_captions_and_questions_are_not_mistaken(tmp_path):
    row_file(tmp_path)
    with pytest.raises(UserError, match="captions are needed"):
        open_source(str(tmp_path))
    captions = write(tmp_path / "captions.jsonl", [{"image": "a.png", "caption": "A."}])
    with pytest.raises(UserError, match="questions with answers are needed"):
        open_source(str(captions), questions=True)
    assert open_source(str(tmp_path))[0].captions == ("A.",)  # the folder has both
    assert open_source(str(tmp_path), questions=True)[0].question == "What?"


def test_an_image_by_number_needs_the_part_of_coco(tmp_path):
    file = coco_style(tmp_path)
    renamed = file.rename(tmp_path / "my_questions.json")
    with pytest.raises(UserError, match=r"questions\[0\].*42.*data_subtype"):
        open_source(str(renamed), questions=True)


@pytest.mark.parametrize(
    ("answers", "majority", "first"),
    [
        (["b", "a", "a"], "a", "b"),
        (["b", "a"], "b", "b"),
        (["", " x\n y "], "x y", "x y"),
        (["b ", "a", "b"], "b", "b"),
    ],
)
def test_the_shown_answer_is_the_majority_or_the_first(answers, majority, first):
    assert chosen_answer(answers, "majority") == majority
    assert chosen_answer(answers, "first") == first
