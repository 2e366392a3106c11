"""Splits are made for sources without splits."""

import pytest
from PIL import Image as PILImage

from flamingo.data.document import Image
from flamingo.data.records.record import Record, RecordList
from flamingo.data.splits import SplitsConfig, of_split, share_a_split, with_splits
from flamingo.utils.errors import UserError


def source(number, split=None, order=1):
    picture = Image(PILImage.new("RGB", (4, 3)))
    records = [Record(f"id {i}", picture, ("A.",), split) for i in range(number)]
    return RecordList(records[::order], {})


def splits(records, **keys):
    return {record.id: record.split for record in with_splits(records, SplitsConfig(**keys))}


def counted(found):
    return tuple(list(found.values()).count(name) for name in ("train", "validation", "test"))


def test_the_fractions_are_kept_and_small_splits_have_two_images():
    assert counted(splits(source(200), validation=0.2, test=0.05)) == (150, 40, 10)
    assert counted(splits(source(12))) == (8, 2, 2)
    assert counted(splits(source(12), validation=0.0)) == (10, 0, 2)


def test_splits_depend_on_id_and_seed_but_not_on_order():
    made = splits(source(100))
    assert splits(source(100, order=-1)) == made
    assert splits(source(100), seed=1) != made
    names = list(made.values())
    assert names != sorted(names) and names != sorted(names, reverse=True)


def test_splits_of_the_source_stay_unless_others_are_asked_for():
    assert splits(source(12, "train")) == dict.fromkeys((f"id {i}" for i in range(12)), "train")
    assert counted(splits(source(12, "train"), make=True)) == (8, 2, 2)
    assert set(splits(source(12), make=False).values()) == {None}


def test_the_records_of_made_splits_are_chosen_by_name():
    made = with_splits(source(12), SplitsConfig())
    ids = []
    for name in ("train", "validation", "test"):
        ids += [record.id for record in of_split(made, name)]
    assert sorted(ids) == sorted(record.id for record in made)
    with pytest.raises(UserError, match=r"^split=dev: .*test, train, validation"):
        of_split(made, "dev")


def test_several_splits_are_chosen_only_by_their_names():
    picture = Image(PILImage.new("RGB", (4, 3)))
    names = ("train", "restval", "val", "a+b", "train")
    listed = RecordList([Record(str(i), picture, ("A.",), name) for i, name in enumerate(names)], {})
    chosen = {text: [record.id for record in of_split(listed, text)] for text in ("train", "restval+train", "a+b")}
    assert chosen == {"train": ["0", "4"], "restval+train": ["0", "1", "4"], "a+b": ["3"]}
    with pytest.raises(UserError, match=r"^split=train\+dev: .*'dev'.*restval, train, val"):
        of_split(listed, "train+dev")


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("train", "val", False),
        ("train+restval", "restval", True),
        ("train", "restval+train", True),
        (None, "val", True),
        ("train", "training", False),
    ],
)
def test_splits_are_compared_by_name(first, second, shared):
    assert share_a_split(first, second) == share_a_split(second, first) == shared


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"validation": 1.0}, "validation"),
        ({"test": -0.1}, "test"),
        ({"validation": 0.5, "test": 0.5}, "validation"),
        ({"seed": -1}, "seed"),
    ],
)
def test_fractions_that_leave_nothing_are_refused_by_key(keys, key):
    with pytest.raises(UserError, match=f"^{key}"):
        SplitsConfig(**keys)


def test_too_few_images_are_an_error_with_the_keys():
    with pytest.raises(UserError, match=r"4 images.*splits\.validation"):
        with_splits(source(4), SplitsConfig())
