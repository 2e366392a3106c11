"""Caption files: captions and ids are read exactly, and errors name the entry."""

import json
import os
import re
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image as PILImage

from flamingo.data.readers import Location
from flamingo.data.readers.coco import coco as read_coco
from flamingo.data.readers.image_folder import image_folder as read_image_folder
from flamingo.data.readers.jsonl import jsonl as read_jsonl
from flamingo.data.readers.karpathy import karpathy as read_karpathy
from flamingo.data.records.record import captions_of
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, reading, shows, write

coco, karpathy, jsonl = map(reading, (read_coco, read_karpathy, read_jsonl))


def image_folder(folder):
    return read_image_folder(Location((folder,)))


def facts(source):
    return [(image.id, image.captions, image.split) for image in source]


# ------------------------------------------------------------------------------------ COCO

COCO = {
    "info": {"year": 2017},
    "images": [{"id": 42, "file_name": "b.png", "width": 4}, {"id": 7, "file_name": "a.png"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A cat ."},
        {"id": 2, "image_id": 42, "caption": ' A dog, "Rex" .\n'},
        {"id": 3, "image_id": 7, "caption": "A 猫 ."},
    ],
}


def test_coco_keeps_ids_and_the_order_of_annotations(tmp_path):
    photographs(tmp_path / "val", "a.png", "b.png")
    source = coco(write(tmp_path / "captions.json", COCO), tmp_path / "val")
    assert facts(source) == [("42", ('A dog, "Rex" .',), None), ("7", ("A cat .", "A 猫 ."), None)]
    assert shows(source[0], "b.png") and shows(source[1], "a.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, r"captions\.json.*'images'"),
        ({"annotations": {}}, r"captions\.json.*'annotations'"),
        ({"images": [{"id": 7}]}, r"captions\.json.*images\[0\].*'file_name'"),
        ({"images": [{"file_name": "a.png"}]}, r"images\[0\].*'id'"),
        ({"images": ["a.png"]}, r"images\[0\] needs 'id'"),
        (
            {"images": COCO["images"] + [{"id": 42, "file_name": "a.png"}]},
            r"images\[2\].*42.*\[0\]",
        ),
        (
            {"annotations": [{"image_id": 8, "caption": "x"}]},
            r"annotations\[0\].*8",
        ),
        ({"annotations": [{"image_id": 7}]}, r"annotations\[0\].*'caption'"),
        ({"annotations": []}, r"captions\.json.*\(2, the first 42\)"),
        ({"images": COCO["images"] + [{"id": 1, "file_name": "c.png"}]}, r"images\[2\].*'c\.png'"),
        ({"images": []}, r"captions\.json, annotations\[0\]"),
        ({"images": [], "annotations": []}, r"captions\.json"),
    ],
    ids=str,
)
def test_coco_files_that_do_not_fit_are_named_with_the_place(change, message, tmp_path):
    photographs(tmp_path, "a.png", "b.png")
    with pytest.raises(UserError, match=message):
        coco(write(tmp_path / "captions.json", {**COCO, **change}), tmp_path)


# -------------------------------------------------------------------------------- Karpathy


def test_karpathys_splits_and_sub_folders_are_kept(tmp_path):
    photographs(tmp_path, "val2014/a.png", "train2014/b.png")
    sentences = [{"raw": "A cat.", "tokens": ["a", "cat"]}, {"raw": "Cats!", "tokens": ["cats"]}]
    images = [
        {"filepath": "val2014", "filename": "a.png", "cocoid": 391895, "split": "restval", "sentences": sentences},
        {"filepath": "train2014", "filename": "b.png", "cocoid": 5, "split": "train", "sentences": sentences[:1]},
    ]
    source = karpathy(write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"}), tmp_path)
    assert facts(source) == [("391895", ("A cat.", "Cats!"), "restval"), ("5", ("A cat.",), "train")]
    assert shows(source[0], "a.png") and shows(source[1], "b.png")


def test_without_them_the_ids_are_file_names(tmp_path):
    photographs(tmp_path / "photographs", "a.png")
    image = {"filename": "a.png", "imgid": 0, "split": "val", "sentences": [{"raw": "A cat."}]}
    file = write(tmp_path / "dataset_flickr8k.json", {"images": [image]})
    assert facts(karpathy(file)) == [("a.png", ("A cat.",), "val")]  # the folder is found
    for field, value in (("filename", None), ("sentences", "A cat."), ("filepath", 3), ("cocoid", []), ("split", 1)):
        broken = {"images": [image, {**image, "filename": "b.png", field: value}]}
        with pytest.raises(UserError, match=rf"dataset_flickr8k\.json, images\[1\].* {field[:5]}|'{field}'"):
            karpathy(write(file, broken), photographs(tmp_path / "photographs", "b.png"))
    with pytest.raises(UserError, match=r"images\[0\] needs 'raw'"):
        karpathy(write(file, {"images": [{**image, "sentences": [{"raw": ["a"]}]}]}))


def test_karpathys_null_and_empty_fields_count_as_absent(tmp_path):
    photographs(tmp_path, *(f"{name}.png" for name in "abcde"))
    said = [{"raw": "A cat."}]
    images = [
        {"filename": "a.png", "filepath": "", "cocoid": None, "split": None, "sentences": said},
        {"filename": "b.png", "filepath": None, "cocoid": "", "split": "", "sentences": said},
        {"filename": "c.png", "cocoid": 0, "split": "test", "sentences": []},
        {"filename": "d.png", "split": "test", "sentences": None},
        {"filename": "e.png", "split": "test", "sentences": [*said, {"raw": None}]},
    ]
    source = karpathy(write(tmp_path / "dataset_coco.json", {"images": images}), tmp_path)
    assert facts(source) == [("a.png", ("A cat.",), None), ("b.png", ("A cat.",), None)]
    assert source.skipped.keys() == {"0", "d.png", "e.png"}


# ----------------------------------------------------------------------------------- JSONL


def test_rows_of_ones_own(tmp_path):
    photographs(tmp_path, "sub/a.png", "b.png", "c.png")
    rows = [
        {"image": "sub/a.png", "captions": ["One.", "Two."]},
        {"image": "b.png", "caption": "Three.\u2028Four.", "id": 17, "split": "dev"},
        {"image": str(tmp_path / "c.png"), "caption": "Five.", "id": "c"},
    ]
    source = jsonl(write(tmp_path / "mine.jsonl", rows))
    assert facts(source) == [
        ("sub/a.png", ("One.", "Two."), None),
        ("17", ("Three.\u2028Four.",), "dev"),  # which is no end of a line
        ("c", ("Five.",), None),
    ]
    assert all(shows(image, name) for image, name in zip(source, ["a.png", "b.png", "c.png"]))


def test_byte_order_mark_blank_lines_and_crlf_are_ignored(tmp_path):
    photographs(tmp_path, "a.png", "b.png")
    text = '\ufeff{"image": "a.png", "caption": "One."}\r\n\r\n{"image": "b.png", "caption": "Two."}'
    (tmp_path / "mine.jsonl").write_bytes(text.encode())
    assert [image.captions for image in jsonl(tmp_path / "mine.jsonl")] == [("One.",), ("Two.",)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"image": "b.png", "caption": "x", "tags": []},
            "line 2.*'tags'",
        ),
        ({"caption": "x"}, "line 2.*'image'.*None"),
        ({"image": ["b.png"], "caption": "x"}, r"line 2.*'image'.*\['b.png'\]"),
        ({"image": "b.png"}, "line 2.*captions, caption.*none"),
        ({"image": "b.png", "caption": "x", "captions": ["y"]}, "line 2.* captions, caption$"),
        ({"image": "b.png", "captions": "x"}, "line 2.*'captions'.*'x'"),
        ({"image": "b.png", "caption": ["x"]}, r"line 2.*'caption'.*\['x'\]"),
        ({"image": "b.png", "captions": ["x", 5]}, r"line 2.*captions.*\['x', 5\]"),
        ({"image": "b.png", "caption": "x", "split": 3}, "line 2.*split.*3"),
        ({"image": "b.png", "caption": "x", "id": "\ud83d"}, "line 2: the id "),
        (
            {"image": "b.png", "caption": "x", "id": "a.png"},
            "line 2.*'a.png'.*line 1",
        ),
        ({"image": "a.png", "caption": "x"}, "line 2.*'a.png'.*line 1"),
        ({"image": "B.png", "caption": "x"}, "line 2.*'B.png'"),
        ({"image": "", "caption": "x"}, "line 2.*''"),
        ({"image": "gone/b.png", "caption": "x"}, "line 2.*'gone/b.png'"),
        (["b.png", "x"], "line 2.*JSON"),
    ],
    ids=str,
)
def test_rows_that_do_not_fit_are_named_by_their_line(row, message, tmp_path):
    photographs(tmp_path, "a.png", "b.png")
    file = write(tmp_path / "mine.jsonl", [{"image": "a.png", "caption": "x"}, row])
    with pytest.raises(UserError, match=rf"mine\.jsonl, {message}"):
        jsonl(file)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [([], "there is no caption"), (["x", "\t"], "a caption is empty"), (["x", "\ud83d"], "half a character")],
    ids=str,
)
def test_an_unusable_caption_leaves_its_image_out_and_is_named(wrong, reason, tmp_path, caplog):
    """In every layout: JSON lines, COCO's and Karpathy's JSON, and the metadata of an image folder."""
    photographs(tmp_path, "a.png", "b.png")
    both = {"a.png": ["A cat."], "b.png": wrong}
    rows = [{"image": name, "captions": own} for name, own in both.items()]
    metadata = [{"file_name": name, "captions": own} for name, own in both.items()]
    listed = [{"id": name, "file_name": name} for name in both]
    annotations = [{"image_id": name, "caption": caption} for name, own in both.items() for caption in own]
    images = [{"filename": name, "sentences": [{"raw": caption} for caption in own]} for name, own in both.items()]
    sources = [
        jsonl(write(tmp_path / "mine.jsonl", rows)),
        coco(write(tmp_path / "coco.json", {"images": listed, "annotations": annotations})),
        karpathy(write(tmp_path / "karpathy.json", {"images": images})),
        image_folder(write(tmp_path / "metadata.jsonl", metadata).parent),
    ]
    for source in sources:
        assert facts(source) == [("a.png", ("A cat.",), None)]
        assert source.skipped.keys() == {"b.png"} and reason in source.skipped["b.png"]
    assert caplog.text.count("left out 1: ") == 4 and caplog.text.count("(1, the first b.png)") == 4


def test_a_line_break_within_a_caption_becomes_one_blank(tmp_path):
    photographs(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", 'file_name,text\na.png,"A dog\n\n runs .\n"\n')
    rows = [{"image": "a.png", "caption": "A dog\r\n runs .\n"}]
    for source in (image_folder(tmp_path), jsonl(write(tmp_path / "mine.jsonl", rows))):
        assert source[0].captions == ("A dog runs .",)


def test_files_that_are_no_text_no_json_or_not_there_are_named(tmp_path):
    file = write(tmp_path / "mine.jsonl", '{"image": "a.png", "cap')
    with pytest.raises(UserError, match=r"mine\.jsonl.*line 1.*JSON"):
        jsonl(file)
    file.write_bytes(b'{"image": "\xff.png"}')
    with pytest.raises(UserError, match=r"mine\.jsonl.*utf-8"):
        jsonl(file)
    with pytest.raises(UserError, match=r"mine\.jsonl"):
        jsonl(write(file, "\n"))
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        jsonl(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match=r"cut\.json.*line 1"):
        coco(write(tmp_path / "cut.json", json.dumps(COCO)[:100]))


# --------------------------------------------------------------------- where the images are


def test_the_folder_of_the_images_is_found_around_the_file(tmp_path):
    rows = [{"image": "a.png", "caption": "x"}]
    for place in ("", "Images"):
        photographs(tmp_path / f"by{place}" / place, "a.png")
        assert shows(jsonl(write(tmp_path / f"by{place}" / "mine.jsonl", rows))[0], "a.png")
    photographs(tmp_path / "val2017", "a.png", "b.png")
    assert len(coco(write(tmp_path / "annotations" / "captions_val2017.json", COCO))) == 2


def test_where_that_says_too_little_or_too_much_it_is_asked_for(tmp_path):
    file = write(tmp_path / "mine.jsonl", [{"image": "a.png", "caption": "x"}])
    with pytest.raises(UserError, match=r"'a\.png'"):
        jsonl(file)
    photographs(tmp_path / "small", "a.png")
    photographs(tmp_path / "large", "a.png")
    with pytest.raises(UserError, match=r"large, .*small"):
        jsonl(file)
    assert Path(jsonl(file, tmp_path / "large")[0].image.frames[0]).parent == tmp_path / "large"
    with pytest.raises(UserError, match=r"line 1.*'a\.png'"):
        jsonl(file, tmp_path / "nowhere")


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_are_found_whichever_way_their_accents_are_written(on_disk, tmp_path):
    """macOS writes "é" as two characters; a file that was listed there and unpacked elsewhere names it otherwise."""
    in_file = {"NFC": "NFD", "NFD": "NFC"}[on_disk]
    names = [normalize(on_disk, name) for name in ("Übersicht/école.png", "Übersicht/b.png")]
    photographs(tmp_path / "photographs", *names)
    rows = [{"image": normalize(in_file, name), "caption": "x"} for name in names]
    source = jsonl(write(tmp_path / "mine.jsonl", rows))
    assert [image.id for image in source] == [row["image"] for row in rows]
    assert shows(source[0], names[0]) and shows(source[1], names[1])


def test_names_that_differ_in_this_alone_find_their_own_images(tmp_path):
    names = [normalize(form, "école.png") for form in ("NFC", "NFD")]
    for name, colour in zip(names, ("red", "blue")):
        PILImage.new("RGB", (4, 3), colour).save(tmp_path / name)
    source = jsonl(write(tmp_path / "mine.jsonl", [{"image": name, "caption": "x"} for name in names]))
    pixels = [open_image(image.image.frames[0]).getpixel((0, 0)) for image in source]
    assert pixels == [(255, 0, 0), (0, 0, 255)]


def test_an_image_that_is_no_regular_file_is_named_at_once(tmp_path):
    photographs(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").symlink_to("nowhere.png")
    for name in ("b.png", "c.png", "d.png", "n" * 300, "n\0.png"):
        rows = [{"image": "a.png", "caption": "x"}, {"image": name, "caption": "x"}]
        with pytest.raises(UserError, match=r"mine\.jsonl.*line 2"):
            jsonl(write(tmp_path / "mine.jsonl", rows))
        with pytest.raises(UserError, match=r"mine\.jsonl"):
            jsonl(write(tmp_path / "mine.jsonl", rows[1:]))
    (tmp_path / "mine.jsonl").unlink()
    os.mkfifo(tmp_path / "mine.jsonl")
    with pytest.raises(UserError, match=r"mine\.jsonl.*pipe"):
        jsonl(tmp_path / "mine.jsonl")


# ---------------------------------------------------------------------------- image folders


@pytest.mark.parametrize("name", ["text", "caption"])
def test_an_image_folder_has_its_metadata_in_csv_or_json(name, tmp_path):
    photographs(tmp_path / "c", "a.png", "sub/b.png")
    photographs(tmp_path / "j", "a.png", "sub/b.png")
    write(tmp_path / "c" / "metadata.csv", f'file_name,{name},size\na.png,"A ""cat"", asleep",3\nsub/b.png,A dog,4\n')
    rows = [{"file_name": "a.png", name: 'A "cat", asleep'}, {"file_name": "sub/b.png", name: "A dog", "size": 4}]
    write(tmp_path / "j" / "metadata.jsonl", rows)
    for folder in (tmp_path / "c", tmp_path / "j"):
        source = image_folder(folder)
        assert facts(source) == [("a.png", ('A "cat", asleep',), None), ("sub/b.png", ("A dog",), None)]
        assert shows(source[1], "b.png")


def test_its_sub_folders_are_splits(tmp_path):
    for split in ("train", "validation"):
        photographs(tmp_path / split, "a.png")
        write(tmp_path / split / "metadata.jsonl", [{"file_name": "a.png", "captions": [f"A {split} cat.", "Cat."]}])
    assert facts(image_folder(tmp_path)) == [
        ("train/a.png", ("A train cat.", "Cat."), "train"),
        ("validation/a.png", ("A validation cat.", "Cat."), "validation"),
    ]


def test_the_metadata_split_wins_over_the_folder_name(tmp_path):
    photographs(tmp_path / "train", "a.png", "b.png")
    write(tmp_path / "train" / "metadata.csv", "file_name,text,split\na.png,A.,val\nb.png,B.,\n")
    splits = {image.id: image.split for image in image_folder(tmp_path)}
    assert splits == {"train/a.png": "val", "train/b.png": "train"}
    (tmp_path / "train" / "metadata.csv").unlink()
    write(tmp_path / "train" / "metadata.jsonl", [{"file_name": "a.png", "text": "A.", "split": 0}])
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1: .*split"):
        image_folder(tmp_path)


def test_image_folders_that_do_not_fit_are_named(tmp_path):
    photographs(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"metadata\.jsonl.*metadata\.csv"):
        image_folder(tmp_path)
    file = tmp_path / "metadata.csv"
    for text, message in [
        ("file_name,text\na.png\n", "line 2.*1 cells.*2"),
        ('file_name,text\na.png,"A cat\n', "line 2.*CSV"),
        ('file_name,text\na.png,"A" cat\n', "line 2.*CSV"),
        ("name,text\na.png,A cat\n", "line 2.*'file_name'"),
        ("file_name,label\na.png,cat\n", "line 2.*text, caption, captions"),
        ("file_name,captions\na.png,\"['A cat']\"\n", "line 2.*'captions'"),
        ("file_name,text\na.png,A cat\na.png,A dog\n", "line 3.*'a.png'.*line 2"),
        ("file_name,text\na.png,A cat\nc.png,A dog\n", "line 3.*'c.png'"),
    ]:
        with pytest.raises(UserError, match=rf"metadata\.csv, {message}"):
            image_folder(write(file, text).parent)
    write(tmp_path / "metadata.jsonl", [])
    with pytest.raises(UserError, match=rf"metadata\.csv, {re.escape(str(tmp_path))}"):
        image_folder(tmp_path)


def test_captions_are_one_text_or_several():
    assert captions_of(" a ") == ("a",)
    assert captions_of(["b", "a ", "b"]) == ("b", "a", "b")
    for value, message in [
        ([], "no caption"),
        (None, "must be texts: got None"),
        ("", "is empty"),
        ([["a"]], "be texts"),
    ]:
        with pytest.raises(UserError, match=message):
            captions_of(value)
