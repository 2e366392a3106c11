"""Held-out documents: their split, their number, and what they depend on."""

import json

import pytest

from experiments.setup.build_data import build_records, held_out_split
from experiments.setup.build_monitoring import build_held_out
from flamingo import FlamingoProcessor
from flamingo.utils.errors import UserError
from tests.experiments.conftest import photograph
from tests.helpers.configs import composed


def folder_with(tmp_path, splits):
    """Photographs with captions that name their splits; None: the data name none."""
    rows = []
    for number, split in enumerate(splits):
        photograph(number).save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "caption": f"number {number}"}
        rows.append(json.dumps(row if split is None else row | {"split": split}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    return tmp_path


def data_of(root, *overrides):
    documents = ("~data.documents.interleaved", "data.documents.pairs.captions_per_image=1")
    return composed("train", "data=images", f"data.root={root}", "features.folder=null", *documents, *overrides).data


NAMED = ["train"] * 4 + ["dev"] * 2 + ["test"] * 2


@pytest.mark.parametrize(
    ("splits", "overrides", "expected"),
    [
        (NAMED, ["data.split=train", "data.sample_split=dev"], "dev"),
        (NAMED, ["data.split=train", "data.sample_split=dev", "data.validation_split=test"], "test"),
        (NAMED, ["data.split=train"], None),
        (NAMED, [], None),
        (NAMED, ["data.split=train", "data.sample_split=train"], None),
        (NAMED, ["data.split=train+test", "data.sample_split=dev"], "dev"),
        (NAMED, ["data.split=train+dev", "data.sample_split=dev"], None),
        ([None] * 12, ["data.split=train+validation"], None),
        ([None] * 12, ["data.split=train"], "validation"),
        ([None] * 12, ["data.split=train", "data.splits.validation=0"], None),
        ([None] * 12, [], None),
    ],
)
def test_the_held_out_split_is_never_trained_on(tmp_path, splits, overrides, expected):
    assert held_out_split(data_of(folder_with(tmp_path, splits), *overrides)) == expected


@pytest.mark.parametrize("overrides", [["data.split=dev"], ["data.split=train+dev"], []])
def test_a_validation_split_that_is_trained_on_is_refused(tmp_path, overrides):
    with pytest.raises(UserError, match="validation_split"):
        data_of(folder_with(tmp_path, NAMED), "data.validation_split=dev", *overrides)


@pytest.fixture
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


def texts_of(held_out, processor):
    texts = []
    for batch in held_out.batches:
        for ids, mask in zip(batch.tensors["input_ids"], batch.tensors["attention_mask"], strict=True):
            texts.append(processor.tokenizer.decode(ids[mask.bool()]))
    return texts


def test_64_documents_of_the_held_out_split_are_equal_each_time(tmp_path, processor):
    data = data_of(folder_with(tmp_path, NAMED), "data.split=train", "data.sample_split=dev")
    records = build_records(data, processor)

    def texts(seed):
        [held_out] = build_held_out(data, records, processor, None, seed)
        return texts_of(held_out, processor)

    first = texts(0)
    assert len(first) == 64
    assert all("number 4" in text or "number 5" in text for text in first)
    assert texts(0) == first
    assert texts(1) != first


def test_documents_of_a_group_are_counted_one_by_one(tmp_path, processor):
    data = data_of(folder_with(tmp_path, NAMED), "data.split=train", "data.sample_split=dev")
    documents = data.documents["pairs"].documents
    documents.captions_per_image, documents.batch_size = 3, 4
    [held_out] = build_held_out(data, build_records(data, processor), processor, None, 0)
    assert [len(batch.ids) for batch in held_out.batches] == [4, 4, 4, 4, 4, 2]  # 22 groups of 3 documents


def test_without_a_held_out_split_nothing_is_measured(tmp_path, processor, caplog):
    data = data_of(folder_with(tmp_path, NAMED), "data.split=train")
    with caplog.at_level("INFO"):
        records = build_records(data, processor)
    assert build_held_out(data, records, processor, None, 0) == []
    assert "data.validation_split" in caplog.text


def test_synthetic_documents_belong_to_the_evaluation_split(processor):
    few = ("data.documents.captions.min_images=1", "data.documents.captions.max_images=1")
    data = composed("train", "experiment=demo", *few).data
    [held_out] = build_held_out(data, None, processor, None, 0)
    assert held_out.name == "captions"
    first = held_out.batches[0]
    assert len(held_out.batches) == 16
    assert all("evaluation" in identity for identity in first.ids)


def test_missing_images_that_are_skipped_leave_the_made_split(tmp_path):
    root = folder_with(tmp_path, [None] * 12)
    (root / "3.png").unlink()
    assert held_out_split(data_of(root, "data.split=train", "data.broken_images=skip")) == "validation"


def test_data_that_cannot_be_read_are_one_problem(tmp_path, processor):
    with pytest.raises(UserError) as caught:
        build_records(data_of(tmp_path / "nowhere", "data.split=train"), processor)
    assert str(caught.value).count("there is nothing at") == 1
