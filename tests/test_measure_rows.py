"""in_context.json is read as it was written, and errors name the file, the row and the field."""

import json

import pytest

from flamingo.measure_rows import read_measures, save_measures
from flamingo.utils.errors import UserError
from tests.helpers.measures import measure


def test_measures_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "in_context.json"
    written = [
        measure(),
        measure(name="gated_entropy", distance=None, layer=3, part=None, ci95=None, n=1),
        measure(shots=0, name="self_attention", distance=2, layer=0, part="demonstration_text", seed=4),
    ]
    save_measures(file, written)
    assert read_measures(file) == written
    save_measures(file, [])
    assert read_measures(file) == written


def test_rows_of_the_same_setting_seed_and_name_are_replaced(tmp_path):
    file = tmp_path / "in_context.json"
    kept = [
        measure(name="reference_rate"),
        measure(seed=1),
        measure(shots=8),
        measure(control="blind"),
        measure(task="other"),
    ]
    save_measures(file, [kept[0], measure(distance=1), *kept[1:], measure(distance=2), measure(distance=3)])
    new = [measure(distance=1, value=0.5), measure(distance=2, value=0.75)]
    save_measures(file, new)
    # They take the place of the earlier ones, so that a repeated evaluation makes the same file.
    expected = [kept[0], *new, *kept[1:]]
    assert read_measures(file) == expected
    with pytest.raises(ValueError, match="JSON"):
        save_measures(file, [measure(value=float("nan"))])
    assert read_measures(file) == expected and [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("setting", {"task": "t"}),
        ("seed", None),
        ("name", "other"),
        ("distance", 1.5),
        ("layer", "0"),
        ("part", 3),
        ("value", "much"),
        ("value", float("inf")),
        ("ci95", [0.1]),
        ("ci95", [0.2, 0.1]),
        ("ci95", [0.2, float("nan")]),
        ("n", None),
    ],
)
def test_a_malformed_field_of_a_measure_is_named(tmp_path, field, value):
    file = tmp_path / "in_context.json"
    save_measures(file, [measure(), measure(layer=1)])
    rows = json.loads(file.read_text())
    rows[1][field] = value
    file.write_text(json.dumps(rows))
    expected = "shots" if field == "setting" else field
    with pytest.raises(UserError, match=rf"in_context\.json, row 1.*{expected}"):
        read_measures(file)
    del rows[1][field]
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=rf"row 1 lacks '{field}'"):
        read_measures(file)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"in_context\.json"):
        read_measures(file)
