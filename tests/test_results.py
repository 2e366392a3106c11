"""Result files are read as written and never half, and errors name the file and the row."""

import json

import pytest

from flamingo.history import History, read_history
from flamingo.results import (
    SETTING,
    append_predictions,
    read_prediction_rows,
    read_predictions,
    read_scores,
    save_scores,
)
from flamingo.utils.errors import UserError
from tests.helpers.result_rows import row, setting
from tests.report import fake


def scores(tmp_path, *rows):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(rows))
    return read_scores(path)


def test_predictions_are_read_as_written_without_a_torn_end(tmp_path):
    file = tmp_path / "predictions.jsonl"
    assert read_prediction_rows(file) == []
    append_predictions(file, [row("a"), row("b")])
    append_predictions(file, [row("c")])
    assert read_prediction_rows(file) == [row("a"), row("b"), row("c")]
    file.write_bytes(file.read_bytes()[:-9])
    assert read_prediction_rows(file) == [row("a"), row("b")]


@pytest.mark.parametrize("line", ["{", "[]", "3", json.dumps({**row("a"), "task": "t"})[:-2] + "\n", '{"task": "t"}'])
def test_a_broken_line_elsewhere_is_named(tmp_path, line):
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(row("a")) + "\n" + line.strip() + "\n" + json.dumps(row("b")) + "\n")
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 2"):
        read_prediction_rows(file)


def test_scores_replace_earlier_ones_of_the_same_settings(tmp_path):
    def score(shots, metric, value):
        own = dict(zip(SETTING, setting(shots), strict=True))
        return {**own, "metric": metric, "value": value, "ci95": [0.0, 1.0], "n": 3}

    file = tmp_path / "scores.json"
    save_scores(file, [score(4, "CIDEr", 0.1), score(4, "old", 0.2), score(8, "CIDEr", 0.3)])
    save_scores(file, [score(4, "CIDEr", 0.5)])
    assert json.loads(file.read_text()) == [score(8, "CIDEr", 0.3), score(4, "CIDEr", 0.5)]
    with pytest.raises(ValueError, match="JSON"):
        save_scores(file, [score(4, "CIDEr", float("nan"))])
    assert len(json.loads(file.read_text())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    ("setting", "series"),
    [
        ({}, ""),
        ({"shots": 0, "demonstrations": None}, ""),
        ({"shots": 0, "demonstrations": "text_only"}, "text only"),
        ({"demonstrations": "rices"}, "RICES"),
        ({"control": "shuffled_images"}, "shuffled images"),
        ({"control": "blind", "demonstrations": "rices"}, "blind, RICES"),
        ({"demonstrations": "rices_question"}, "RICES by question"),
        ({"control": "blind", "demonstrations": "rices_sum"}, "blind, RICES by sum"),
        ({"control": "upside_down"}, "upside down"),
        ({"support": "coco"}, "support coco"),
        ({"control": "blind", "demonstrations": "rices", "support": "coco"}, "blind, RICES, support coco"),
    ],
)
def test_series(tmp_path, setting, series):
    assert scores(tmp_path, fake.score(**setting))[0].setting.series == series


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "row 1.*'value' and 'ci95'"),
        ({"value": "0.5"}, "row 1.*'value'.*'0.5'"),
        ({"ci95": [0.4]}, "row 1.*'ci95'"),
        ({"ci95": [0.6, 0.4]}, "row 1.*'ci95'"),
        ({"ci95": [0.4, None]}, "row 1.*'value' and 'ci95'"),
        ({"shots": 4.0}, "row 1.*'shots'.*4.0"),
        ({"control": 3}, "row 1.*'control'.*3"),
        ({"support": 3}, "row 1.*'support'.*3"),
        ({"metric": "exact_match", "shots": 2}, "row 1.*exact_match.*seed 0"),
    ],
)
def test_malformed_scores_are_named(tmp_path, change, message):
    with pytest.raises(UserError, match=rf"scores\.json, {message}"):
        scores(tmp_path, fake.score(shots=2), fake.score() | change)


@pytest.mark.parametrize("key", fake.score())
def test_a_missing_field_is_named(tmp_path, key):
    row = fake.score()
    del row[key]
    with pytest.raises(UserError, match=rf"scores\.json, row 0.*'{key}'"):
        scores(tmp_path, row)


@pytest.mark.parametrize(("text", "message"), [("", "JSON"), ("[]", "empty"), ("{}", "list"), ("[3]", "row 0")])
def test_what_is_no_list_of_scores_is_refused(tmp_path, text, message):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UserError, match=rf"scores\.json.*{message}"):
        read_scores(tmp_path / "scores.json")


@pytest.mark.parametrize("read", [read_scores, lambda path: list(read_predictions(path)), read_history])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        read(tmp_path / "nowhere.json")


def test_predictions_of_other_orders_are_left_out(tmp_path):
    rows = [fake.prediction(output=str(order)) | {"order": order} for order in (1, 0, 2)]
    fake.write_lines(tmp_path / "p.jsonl", rows)
    assert [prediction.output for prediction in read_predictions(tmp_path / "p.jsonl")] == ["0"]


def test_a_torn_or_malformed_line_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    fake.write_lines(path, [fake.prediction(), fake.prediction() | {"references": [1]}])
    with pytest.raises(UserError, match=r"p\.jsonl, line 2: .*'references'"):
        list(read_predictions(path))
    for answers in ([1], [], None):
        fake.write_lines(path, [fake.prediction(demonstration_ids=["d"]) | {"demonstration_answers": answers}])
        with pytest.raises(UserError, match=r"p\.jsonl, line 1: .*'demonstration_answers'"):
            list(read_predictions(path))
    fake.write_lines(path, [fake.prediction() | {"scores": {"exact_match": None}}])
    with pytest.raises(UserError, match=r"p\.jsonl.*line 1.*'scores'"):
        list(read_predictions(path))
    fake.write_lines(path, [fake.prediction()])
    path.write_text(path.read_text() + '{"task": "wor')
    with pytest.raises(UserError, match=r"p\.jsonl.*line 2.*JSON"):
        list(read_predictions(path))


@pytest.mark.parametrize("change", [{"loss": None}, {"loss/captions": "1.0"}, {"gates": {"0.attention": None}}])
def test_a_malformed_record_is_named(tmp_path, change):
    record = {"step": 1, "loss": 2.0, "gates": {}}
    fake.write_lines(tmp_path / "h.jsonl", [record, record | change])
    with pytest.raises(UserError, match=r"h\.jsonl, line 2: "):
        read_history(tmp_path / "h.jsonl")


def test_records_append_and_half_written_ones_are_dropped(tmp_path):
    history = History(tmp_path / "new" / "history.jsonl")
    history.keep_until(0)
    for step in (2, 4, 6):
        history.append({"step": step, "loss": step / 3})
    with history.path.open("a") as file:
        file.write('{"step": 8, "lo')
    history.keep_until(4)
    assert (
        history.path.read_text() == '{"step": 2, "loss": 0.6666666666666666}\n{"step": 4, "loss": 1.3333333333333333}\n'
    )
    with history.path.open("a") as file:
        file.write('{"step": 4')
    history.keep_until(9)
    history.append({"step": 6})
    assert history.path.read_text().splitlines()[2:] == ['{"step": 6}']
    assert [path.name for path in history.path.parent.iterdir()] == ["history.jsonl"]


@pytest.mark.parametrize("line", ["not json", '{"loss": 1}', "[1]"])
def test_a_file_that_is_no_history_is_refused_by_its_line(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"history\.jsonl, line 2"):
        History(path).keep_until(5)
    assert path.read_text().endswith(line + "\n")
