"""Files of an evaluation: read back as written, never half, never silently less."""

import json

import pytest
from PIL import Image as PILImage

from flamingo import Image
from flamingo.evaluation.files import (
    append_predictions,
    load_complete_settings,
    read_predictions,
    save_pictures,
    save_scores,
)
from flamingo.evaluation.protocol import Example
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path


def row(query, shots=4, order=0, output="ein Hund \u2028 läuft"):
    return {
        "task": "t", "shots": shots, "demonstrations": "random", "control": None, "decoding": "greedy", "seed": 0,
        "order": order, "query": query, "demonstration_ids": [], "prompt": "p", "output": output, "references": ["r"],
        "scores": {},
    }  # fmt: skip


def setting(shots):
    return ("t", shots, "random", None, "greedy", 0)


def test_predictions_are_read_as_they_were_written_without_a_torn_end(tmp_path):
    file = tmp_path / "predictions.jsonl"
    assert read_predictions(file) == []
    append_predictions(file, [row("a"), row("b")])
    append_predictions(file, [row("c")])
    assert read_predictions(file) == [row("a"), row("b"), row("c")]
    file.write_bytes(file.read_bytes()[:-9])
    assert read_predictions(file) == [row("a"), row("b")]


@pytest.mark.parametrize("line", ["{", "[]", "3", json.dumps({**row("a"), "task": "t"})[:-2] + "\n", '{"task": "t"}'])
def test_a_broken_line_elsewhere_is_named(tmp_path, line):
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(row("a")) + "\n" + line.strip() + "\n" + json.dumps(row("b")) + "\n")
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 2"):
        read_predictions(file)


def test_only_whole_settings_are_kept_and_others_left_alone(tmp_path):
    file = tmp_path / "out" / "predictions.jsonl"
    assert load_complete_settings(file, {setting(4): [(0, "a")]}) == {}
    append_predictions(file, [row("b"), row("a"), row("a", shots=8), row("a", shots=16)])
    asked = {setting(shots): [(0, "a"), (0, "b")] for shots in (4, 8, 32)}
    assert load_complete_settings(file, asked) == {setting(4): [row("a"), row("b")]}  # in the order asked
    assert read_predictions(file) == [row("b"), row("a"), row("a", shots=16)]
    append_predictions(file, [row("c", order=1)])
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"has 1 .*\(1, 'c'\)"):
        load_complete_settings(file, asked)
    assert file.read_bytes() == before


def test_scores_take_the_place_of_earlier_ones_of_the_same_settings(tmp_path):
    def score(shots, metric, value):
        own = dict(zip(("task", "shots", "demonstrations", "control", "decoding", "seed"), setting(shots)))
        return {**own, "metric": metric, "value": value, "ci95": [0.0, 1.0], "n": 3}

    file = tmp_path / "scores.json"
    save_scores(file, [score(4, "CIDEr", 0.1), score(4, "old", 0.2), score(8, "CIDEr", 0.3)])
    save_scores(file, [score(4, "CIDEr", 0.5)])
    assert json.loads(file.read_text()) == [score(8, "CIDEr", 0.3), score(4, "CIDEr", 0.5)]
    with pytest.raises(ValueError, match="JSON"):
        save_scores(file, [score(4, "CIDEr", float("nan"))])
    assert len(json.loads(file.read_text())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_pictures_are_small_and_never_take_each_others_place(tmp_path):
    wide = Example("a/wide 1.jpg", Image(PILImage.new("RGB", (1000, 500), "red")), ("r",))
    small = Example("ü", Image(PILImage.new("RGB", (30, 20), "blue")), ("r",))
    save_pictures(tmp_path, "flickr8k", [wide, small, wide])
    sizes = {id: PILImage.open(picture_path(tmp_path, "flickr8k", id)).size for id in (wide.id, small.id)}
    assert sizes == {wide.id: (256, 128), small.id: (30, 20)}
    assert len(list((tmp_path / "flickr8k").iterdir())) == 2
