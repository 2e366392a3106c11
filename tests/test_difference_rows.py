"""differences.json is read as it was written, and errors name the file, the row and the field."""

import json
from dataclasses import replace

import pytest

from flamingo.difference_rows import read_differences, save_differences
from flamingo.utils.errors import UserError
from tests.helpers.differences import difference, setting


def test_differences_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "differences.json"
    written = [
        difference(),
        difference(kind="slope", subtracted=None, mark=None, adjusted_p=None, shots=(1, 4)),
        difference(over_seeds=(-0.1, 0.3), degrees_of_freedom=3.2, level="draws of demonstrations"),
        difference(percentile=None, bca=None, p=None, adjusted_p=None, mark="undecided", n=20),
        difference(kind="baseline", variant="a", baseline="b"),
        difference(kind="own_support", setting=replace(setting(), support="coco"), subtracted=setting()),
    ]
    save_differences(file, written, "t")
    assert read_differences(file) == written
    assert [row.interval for row in written] == [
        (0.02, 0.21),
        (0.02, 0.21),
        (-0.1, 0.3),
        None,
        (0.02, 0.21),
        (0.02, 0.21),
    ]


def test_differences_take_the_place_of_earlier_ones_of_the_task(tmp_path):
    file = tmp_path / "differences.json"
    save_differences(file, [difference("one"), difference("one", value=0.3)], "one")
    save_differences(file, [difference("other")], "other")
    save_differences(file, [difference("one", value=0.2)], "one")
    assert read_differences(file) == [difference("other"), difference("one", value=0.2)]
    with pytest.raises(ValueError, match="JSON"):
        save_differences(file, [difference("one", value=float("nan"))], "one")
    assert len(read_differences(file)) == 2 and [path.name for path in tmp_path.iterdir()] == [file.name]
    save_differences(file, [], "other")
    save_differences(file, [], "one")
    assert read_differences(file) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "other"),
        ("setting", None),
        ("setting", {"task": "t"}),
        ("subtracted", 3),
        ("value", "much"),
        ("bca", [0.1]),
        ("percentile", [0.2, 0.1]),
        ("over_seeds", ["a", "b"]),
        ("seeds", 0),
    ],
)
def test_a_malformed_field_is_named(tmp_path, field, value):
    file = tmp_path / "differences.json"
    save_differences(file, [difference(), difference()], "t")
    rows = json.loads(file.read_text())
    rows[1][field] = value
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=rf"differences\.json, row 1.*{'shots' if isinstance(value, dict) else field}"):
        read_differences(file)
    del rows[1]["p"]
    del rows[1][field]
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"row 1 lacks"):
        read_differences(file)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"differences\.json"):
        read_differences(file)
