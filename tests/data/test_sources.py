"""One line opens any source. Ambiguous sources are errors, and nothing is chosen silently."""

import io
import json
import logging
import shutil
import tarfile

import pytest

from flamingo.data.order import Shuffled
from flamingo.data.readers import READERS
from flamingo.data.source_config import SourceConfig
from flamingo.data.source_keys import SourceKeys
from flamingo.data.sources import open_source, read_split, readable
from flamingo.data.splits import of_split
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, shows, write

COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "caption": "A."}, {"image_id": 2, "caption": "B."}],
}
KARPATHY = {
    "images": [{"filename": f"{x}.png", "split": s, "sentences": [{"raw": f"{x.upper()}."}]} for x, s in ("at", "bv")]
}
ROWS = [{"image": "a.png", "caption": "A."}, {"image": "b.png", "caption": "B."}]
TOKEN = "a.png#0\tA.\nb.png#0\tB.\n"
BARS = "image_name| comment_number| comment\na.png| 0| A.\nb.png| 0| B.\n"


def shard(file, *names, broken=()):
    photographs(file.parent / "unpacked", *names)
    with tarfile.open(file, "w") as archive:
        for name in names:
            content = b"broken" if name in broken else (file.parent / "unpacked" / name).read_bytes()
            text = f"{name[0].upper()}.".encode()
            for member, data in ((name, content), (name.replace(".png", ".txt"), text)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file


@pytest.mark.parametrize(
    ("name", "content", "images"),
    [
        ("captions_val2017.json", COCO, "val2017"),
        ("annotations/captions_val2017.json", COCO, "val2017"),
        ("dataset_flickr8k.json", KARPATHY, "Images"),
        ("captions.txt", "image,caption\na.png,A.\nb.png,B.\n", "Images"),
        ("Flickr8k.token.txt", TOKEN, "Flicker8k_Dataset"),
        ("results_20130124.token", TOKEN, "flickr30k-images"),
        ("results.csv", BARS, "flickr30k_images"),
        ("mine.jsonl", ROWS, ""),
        ("metadata.jsonl", [{"file_name": "a.png", "text": "A."}, {"file_name": "b.png", "text": "B."}], ""),
        ("metadata.csv", "file_name,caption\na.png,A.\nb.png,B.\n", ""),
    ],
)
def test_known_layouts_are_found_by_folder_and_by_file(name, content, images, tmp_path):
    photographs(tmp_path / images, "a.png", "b.png")
    write(tmp_path / "README.md", "# Not this.")
    write(tmp_path / "licence.txt", "Nor this.")
    write(tmp_path / "config.json", {"images": [1], "annotations": []})
    write(tmp_path / name, content)
    for root in (tmp_path, tmp_path / name):
        source = open_source(str(root))
        assert [image.captions for image in source] == [("A.",), ("B.",)]
        assert shows(source[0], "a.png") and shows(source[1], "b.png")
    if images:
        assert len(open_source(str(tmp_path / name), images=str(tmp_path / images))) == 2


def test_split_folders_of_an_image_folder_are_found(tmp_path):
    for split in ("train", "test"):
        photographs(tmp_path / split, "a.png")
        write(tmp_path / split / "metadata.csv", "file_name,text\na.png,A.\n")
    source = open_source(str(tmp_path))
    assert {image.id: image.split for image in source} == {"train/a.png": "train", "test/a.png": "test"}


def test_shards_are_found_by_folder_file_and_glob(tmp_path):
    one, two = (shard(tmp_path / f"train-{n}.tar", *names) for n, names in ((9, ["c.png"]), (10, ["a.png", "b.png"])))
    for root in (tmp_path, tmp_path / "train-*.tar", tmp_path / "train-[0-9]*.tar"):
        assert [image.captions for image in open_source(str(root))] == [("A.",), ("B.",), ("C.",)]
    assert len(open_source(str(two))) == 2 and len(open_source(str(one))) == 1
    shard(tmp_path / "dev-0.tar", "d.png")
    assert [image.captions for image in of_split(open_source(str(tmp_path)), "dev")] == [("D.",)]
    assert len(of_split(open_source(str(tmp_path)), "train")) == 3
    assert len(open_source(str(tmp_path / "*.tar"))) == 4
    shard(tmp_path / "hub" / "data" / "train-0.tar", "a.png")  # as on the hub
    assert [image.split for image in open_source(str(tmp_path / "hub"))] == ["train"]


def test_an_output_folder_of_img2dataset_is_one_thing(tmp_path):
    """Its tars hold KEY.jpg, KEY.txt and KEY.json, and each has a list of addresses and a count of failures."""
    pq = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    keys = ("000000000", "000000001", "000010000")
    rows = [
        {"caption": caption, "url": "http://a/b", "key": key, "status": "success", "error_message": None}
        for key, caption in zip(keys, ("A\nC.", None, "B."))
    ]
    for number, own in (("00000", rows[:2]), ("00001", rows[2:])):
        members = {}
        for row in own:
            photographs(tmp_path / "unpacked", f"{row['key']}.jpg")
            members[f"{row['key']}.jpg"] = (tmp_path / "unpacked" / f"{row['key']}.jpg").read_bytes()
            members[f"{row['key']}.txt"] = (row["caption"] or "").encode()
            members[f"{row['key']}.json"] = json.dumps(row, indent=4).encode()
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        pq.write_table(table({name: [row[name] for row in own] for name in rows[0]}), folder / f"{number}.parquet")
        stats = {"count": 3, "successes": len(own), "failed_to_download": 1, "status_dict": {"success": len(own)}}
        write(folder / f"{number}_stats.json", stats)
    source = open_source(str(tmp_path / "out"))
    assert [(image.id, image.captions) for image in source] == [(keys[0], ("A C.",)), (keys[2], ("B.",))]
    assert source.skipped.keys() == {keys[1]}


@pytest.mark.parametrize("folder", ["Flickr8k_text", ""])
def test_flickr8k_as_it_is_distributed_is_one_thing(folder, tmp_path):
    """Two archives: the photographs; and texts, which have the captions a second time in lemmas, and human ratings."""
    photographs(tmp_path / "Flicker8k_Dataset", "a.png", "b.png")
    texts = tmp_path / folder
    write(texts / "Flickr8k.token.txt", "a.png#0\tDogs run .\nb.png#0\tB.\n")
    write(texts / "Flickr8k.lemma.token.txt", "a.png#0\tdog run .\nb.png#0\tB.\n")
    write(texts / "Flickr_8k.trainImages.txt", "a.png\n")
    write(texts / "Flickr_8k.devImages.txt", "")
    write(texts / "Flickr_8k.testImages.txt", "b.png\n")
    write(texts / "ExpertAnnotations.txt", "a.png\tb.png#0\t1\t1\t1\n")
    write(texts / "CrowdFlowerAnnotations.txt", "a.png\tb.png#0\t0\t0\t3\n")
    write(texts / "readme.txt", "If you use this corpus / data:\n")
    for root in {tmp_path, texts}:
        source = open_source(str(root))
        assert [(image.captions, image.split) for image in source] == [(("Dogs run .",), "train"), (("B.",), "test")]
        assert shows(source[0], "a.png")
    lemmas = open_source(str(texts / "Flickr8k.lemma.token.txt"))
    assert lemmas[0].captions == ("dog run .",)


def test_parquet_shards_are_found_too(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    content = [(photographs(tmp_path / "x", name) / name).read_bytes() for name in ("a.png", "b.png")]
    for n in range(2):
        pq.write_table(table({"image": [content[n]], "text": ["AB"[n]]}), tmp_path / f"val-0000{n}-of-00002.parquet")
    source = open_source(str(tmp_path))
    assert [image.captions for image in source] == [("A",), ("B",)]
    assert shows(source[1], "b.png")


def test_the_hub_layout_is_found_with_the_split_of_each_file(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    cells = []
    for name in ("a.png", "b.png", "c.png"):
        content = (photographs(tmp_path / "x", name) / name).read_bytes()
        cells.append({"bytes": content, "path": name})
    (tmp_path / "hub" / "data").mkdir(parents=True)
    write(tmp_path / "hub" / "README.md", "---\nconfigs: []\n---\n")
    captions = {"caption_2": ["A2", "B2"], "caption_0": ["A", "B"], "caption_10": ["A3", None]}
    pq.write_table(
        table({"picture": cells[:2], "number": [1, 2], **captions}),
        tmp_path / "hub" / "data" / "train-00000-of-00001.parquet",
    )
    pq.write_table(table({"picture": cells[2:], "text": ["C"]}), tmp_path / "hub" / "data" / "test.parquet")
    source = open_source(str(tmp_path / "hub"))
    found = {record.captions: record.split for record in source}
    assert found == {("C",): "test", ("A", "A2", "A3"): "train", ("B", "B2"): "train"}
    assert shows(source[0], "c.png") and shows(source[2], "b.png")


def test_several_layouts_are_named_and_one_can_be_chosen(tmp_path):
    photographs(tmp_path, "a.png", "b.png")
    write(tmp_path / "train.jsonl", ROWS)
    write(
        tmp_path / "captions.json", {**COCO, "annotations": [{**row, "caption": "C."} for row in COCO["annotations"]]}
    )
    with pytest.raises(UserError, match=r"captions\.json.*train\.jsonl"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), format="coco")[0].captions == ("C.",)
    assert open_source(str(tmp_path), format="jsonl")[0].captions == ("A.",)
    write(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(UserError, match=r"test\.jsonl.*train\.jsonl"):
        open_source(str(tmp_path), format="jsonl")


def test_what_is_not_understood_is_answered_with_what_would_be(tmp_path):
    photographs(tmp_path, "a.png")
    write(tmp_path / "words.txt", "a cat\n")
    for root in (tmp_path, tmp_path / "words.txt", tmp_path / "a.png"):
        with pytest.raises(UserError, match="no data that can be read") as error:
            open_source(str(root))
        assert all(f"\n  {name}: {reader.looks}" in str(error.value) for name, reader in READERS.items())
    with pytest.raises(UserError, match="karpathy"):
        open_source(str(tmp_path), format="karpathy")
    with pytest.raises(UserError, match="'voc'"):
        open_source(str(tmp_path), format="voc")
    for root in ("nowhere", "nowhere-*.tar"):
        with pytest.raises(UserError, match=f"there is nothing at .*{root[:7]}"):
            open_source(str(tmp_path / root))


def test_what_would_be_of_no_effect_is_refused(tmp_path):
    shard(tmp_path / "s.tar", "a.png")
    with pytest.raises(UserError, match="images=photographs"):
        open_source(str(tmp_path / "s.tar"), images="photographs")
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(UserError, match=r"2 files.*jsonl"):
        open_source(str(tmp_path / "*.jsonl"))


def test_a_broken_file_of_the_chosen_layout_is_an_error(tmp_path):
    photographs(tmp_path, "a.png", "b.png")
    write(tmp_path / "captions.json", json.dumps(COCO)[:80])
    with pytest.raises(UserError, match=r"captions\.json.*JSON"):
        open_source(str(tmp_path))
    (tmp_path / "captions.json").unlink()
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"s\.tar\.gz"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"line 1.*JSON"):
        open_source(str(write(tmp_path / "cut.jsonl", '{"image": ')), format="jsonl")


# --------------------------------------------------------------------------------- choosing


def test_an_unknown_split_is_an_error_that_lists_the_known_ones(tmp_path):
    photographs(tmp_path, "a.png", "b.png", "c.png")
    splits = {"a.png": "train", "b.png": "dev", "c.png": "train"}
    rows = [{"image": name, "caption": name, "split": split} for name, split in splits.items()]
    source = open_source(str(write(tmp_path / "mine.jsonl", rows)))
    chosen = of_split(source, "train")
    assert [image.id for image in chosen] == ["a.png", "c.png"] and len(chosen) == 2
    assert chosen[-1] == source[2] and chosen[:1] == [source[0]]
    with pytest.raises(UserError, match=r"^split=val: .*dev, train"):
        of_split(source, "val")
    with pytest.raises(UserError, match=r"^split=train: .*none"):
        of_split(open_source(str(shard(tmp_path / "s.tar", "a.png"))), "train")
    assert of_split(open_source(str(shard(tmp_path / "train.tar", "a.png"))), "train")


def test_pictures_that_cannot_be_opened_are_left_out_on_request(tmp_path, caplog):
    source = open_source(str(shard(tmp_path / "s.tar", "a.png", "b.png", "c.png", broken=["b.png"])))
    assert len(source) == 3  # no image was opened
    with pytest.raises(UserError, match=r"s\.tar:b\.png"):
        shows(source[1], "b.png")
    with caplog.at_level(logging.WARNING):
        kept, skipped = readable(source)
    assert [image.id for image in kept] == ["a", "c"]
    assert list(skipped) == ["b"] and "s.tar:b.png cannot be read" in skipped["b"]
    assert "left out 1 broken images" in caplog.text
    assert readable(kept)[1] == {}


def test_a_broken_image_is_an_error_or_skipped_by_a_key(tmp_path, caplog):
    photographs(tmp_path, "a.png", "b.png")
    write(tmp_path / "mine.jsonl", ROWS)
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b\.png.*1 of 2.*broken_images=skip"):
        read_split(str(tmp_path))
    for open_images in (True, False):
        with caplog.at_level(logging.WARNING):
            read = read_split(str(tmp_path), SourceConfig(broken_images="skip"), open_images=open_images)
        assert [record.id for record in read.records] == ["a.png"] and read.skipped.keys() == {"b.png"}
        assert "left out 1 broken images" in caplog.text
        assert len(read.listed) == 2
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="none of 2 images"):
        read_split(str(tmp_path), SourceConfig(broken_images="skip"))


def test_how_a_source_is_read_is_logged_once(tmp_path, caplog):
    """A training opens its source to choose values, and for each split."""
    photographs(tmp_path, "a.png", "b.png")
    write(tmp_path / "mine.jsonl", ROWS)
    with caplog.at_level(logging.INFO):
        open_source(str(tmp_path))
        read_split(str(tmp_path))
    assert caplog.text.count("is read as jsonl") == 1


def test_missing_images_are_an_error_or_skipped_by_a_key(tmp_path, caplog):
    rows = [{"image": f"{name}.png", "caption": name} for name in "abcde"] + [{"image": "f.png", "captions": []}]
    write(tmp_path / "mine.jsonl", rows)
    photographs(tmp_path / "images", "b.png", "d.png", "e.png")
    (tmp_path / "images" / "d.png").write_bytes(b"broken")
    keys = SourceKeys("data.root", "data.split", "data")
    with pytest.raises(UserError, match=r"^data\.root=.*'a\.png'.*3 of 6 images.*data\.broken_images=skip"):
        read_split(str(tmp_path), keys=keys)
    with caplog.at_level(logging.WARNING):
        read = read_split(str(tmp_path), SourceConfig(broken_images="skip"), keys=keys)
    assert [record.id for record in read.records] == ["b.png", "e.png"]
    assert {id: reason.partition(":")[0] for id, reason in read.skipped.items()} == {
        **dict.fromkeys(("a.png", "c.png"), "the image file does not exist"),
        "d.png": "the picture cannot be opened",
        "f.png": "the image file does not exist",
    }
    assert "left out 3: the image file does not exist (3, the first a.png)" in caplog.text
    assert [record.id for record in read.listed] == ["b.png", "d.png", "e.png"]
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(UserError, match=r"begins with the image 'a\.png'.*no folder around it"):
        read_split(str(tmp_path), SourceConfig(broken_images="skip"))


def test_a_folder_of_images_that_lacks_all_of_them_is_an_error(tmp_path):
    write(tmp_path / "mine.jsonl", ROWS)
    photographs(tmp_path / "elsewhere", "z.png")
    config = SourceConfig(broken_images="skip", images=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"no image.*does not exist \(2, the first a\.png\)"):
        read_split(str(tmp_path), config)


def test_a_split_of_a_source_without_splits_is_made_by_fraction(tmp_path):
    names = [f"{number}.png" for number in range(12)]
    photographs(tmp_path, *names)
    write(tmp_path / "mine.jsonl", [{"image": name, "caption": "A."} for name in names])
    sizes = {split: len(read_split(str(tmp_path), None, split).records) for split in ("train", "validation", "test")}
    assert sizes == {"train": 8, "validation": 2, "test": 2}
    assert len(read_split(str(tmp_path)).records) == 12
    with pytest.raises(UserError, match=r"^split=train: .*splits\.make=true"):
        read_split(str(shard(tmp_path / "dev-0.tar", "a.png")), None, "train")


def test_a_source_can_be_drawn_from(tmp_path):
    source = open_source(str(shard(tmp_path / "s.tar", "a.png", "b.png", "c.png")))
    drawn = Shuffled(source, seed=0)
    assert sorted(drawn[position].id for position in range(3)) == ["a", "b", "c"]
