"""Folders of images: the parts of COCO in one folder, and a folder of the support's own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.setup.build import build_task
from flamingo.evaluation.tasks import CaptioningConfig, VqaConfig
from flamingo.utils.errors import UserError
from tests.data.readers.caption_sets import karpathy
from tests.data.readers.question_files import coco_layout
from tests.data.shelf import write


def folders(records):
    """The last two names of the folders of the records' images."""
    return {"/".join(Path(str(record.image.frames[0])).parts[-3:-1]) for record in records}


@pytest.fixture
def questions(tmp_path):
    """VQAv2 with its questions in one folder, and its images in train2014/ and val2014/ of another one."""
    files = {part: coco_layout(tmp_path / "vqa", "v2_", part, 4) for part in ("train2014", "val2014")}
    (tmp_path / "coco").mkdir()
    for part in files:
        (tmp_path / "vqa" / part).rename(tmp_path / "coco" / part)
    query, support = str(files["val2014"]), str(files["train2014"])
    return VqaConfig(kind="vqa", name="vqav2", query=query, support=support, images=str(tmp_path / "coco"))


def test_each_part_of_coco_is_found_in_one_folder(questions):
    task = build_task(questions, open_images=True)
    assert folders(task.query_records) == {"coco/val2014"}
    assert folders(task.support_records) == {"coco/train2014"}


def test_the_support_may_have_a_folder_of_its_own(questions, tmp_path):
    (tmp_path / "coco" / "train2014").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"^task.support=.*COCO_train2014_000000000000.jpg"):
        build_task(questions, open_images=True)
    with pytest.raises(UserError, match=r"^support_images=.*support"):
        replace(questions, support=None, support_images="DIR")
    task = build_task(replace(questions, support_images=str(tmp_path / "elsewhere")), open_images=True)
    assert folders(task.query_records) == {"coco/val2014"}
    assert folders(task.support_records) == {f"{tmp_path.name}/elsewhere"}


def test_an_image_in_two_folders_of_the_folder_is_ambiguous(questions, tmp_path):
    copied = tmp_path / "coco" / "copy"
    copied.mkdir()
    for file in (tmp_path / "coco" / "val2014").iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"coco/copy, .*coco/val2014: set images="):
        build_task(questions, open_images=True)
    near = replace(questions, images=str(copied), support_images=str(tmp_path / "coco"))
    assert folders(build_task(near, open_images=True).query_records) == {"coco/copy"}


def test_karpathys_file_names_the_folders_of_both_parts(tmp_path):
    """The images of train are in train2014, all others in val2014."""
    file = karpathy(tmp_path / "splits")
    images = tmp_path / "coco"
    (images / "train2014").mkdir(parents=True)
    (tmp_path / "splits" / "val2014").rename(images / "val2014")
    content = json.loads(file.read_text())
    for image in content["images"]:
        if image["split"] == "train":
            (images / "val2014" / image["filename"]).rename(images / "train2014" / image["filename"])
            image["filepath"] = "train2014"
    write(file, content)
    config = CaptioningConfig(
        kind="captioning",
        name="coco",
        query=str(file),
        support=str(file),
        query_split="test",
        support_split="train",
        images=str(images),
        metrics=["CIDEr"],
    )
    task = build_task(config, open_images=True)
    assert folders(task.query_records) == {"coco/val2014"} and len(task.query_records) == 2
    assert folders(task.support_records) == {"coco/train2014"} and len(task.support_records) == 5
    both = build_task(replace(config, support_split="train+restval"), open_images=True)
    assert folders(both.support_records) == {"coco/train2014", "coco/val2014"} and len(both.support_records) == 6
