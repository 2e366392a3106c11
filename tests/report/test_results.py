"""Result files: what is read, how seeds are averaged, and errors that name file and row."""

import json

import pytest

from flamingo.report.results import main_decoding, mean_over_seeds, read_history, read_predictions, read_scores
from flamingo.utils.errors import UserError
from tests.report import fake


def scores(tmp_path, *rows):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(rows))
    return read_scores(path)


def test_seeds_are_averaged_with_the_ends_of_their_intervals(tmp_path):
    one = fake.score(seed=0, value=0.3, ci95=(0.2, 0.4), n=50)
    two = fake.score(seed=1, value=0.5, ci95=(0.45, 0.6), n=40)
    other = fake.score(seed=0, value=0.9, shots=8)
    mean, alone = mean_over_seeds(scores(tmp_path, one, other, two))
    assert mean.value == pytest.approx(0.4)
    assert mean.ci95 == pytest.approx((0.325, 0.5))
    assert (mean.seeds, mean.n) == ((0, 1), 40)
    assert (alone.value, alone.seeds, alone.setting.shots) == (0.9, (0,), 8)


def test_a_mean_has_no_interval_where_a_seed_has_none(tmp_path):
    rows = fake.score(seed=0, ci95=None), fake.score(seed=1)
    assert mean_over_seeds(scores(tmp_path, *rows))[0].ci95 is None


def test_settings_that_differ_in_anything_but_the_seed_stay_apart(tmp_path):
    changes = [{"task": "flickr8k"}, {"shots": 2}, {"demonstrations": "rices"}, {"control": "blind"}]
    changes += [{"decoding": "beam3"}, {"metric": "CIDEr"}]
    assert len(mean_over_seeds(scores(tmp_path, fake.score(), *(fake.score(**change) for change in changes)))) == 7


@pytest.mark.parametrize(
    ("setting", "series"),
    [
        ({}, ""),
        ({"shots": 0, "demonstrations": None}, ""),
        ({"shots": 0, "demonstrations": "text_only"}, "text only"),
        ({"demonstrations": "rices"}, "RICES"),
        ({"control": "shuffled_images"}, "shuffled images"),
        ({"control": "blind", "demonstrations": "rices"}, "blind, RICES"),
        ({"control": "upside_down"}, "upside_down"),
    ],
)
def test_series(tmp_path, setting, series):
    assert scores(tmp_path, fake.score(**setting))[0].setting.series == series


def test_settings_are_told_plain_first_then_controls_by_shots(tmp_path):
    found = scores(
        tmp_path,
        fake.score(control="upside_down"),
        fake.score(control="blind", shots=8),
        fake.score(control="blind", shots=4),
        fake.score(decoding="beam3", shots=1),
        fake.score(shots=8),
        fake.score(shots=0, demonstrations=None),
    )
    order = [(s.control, s.shots) for s in sorted((s.setting for s in found), key=lambda s: s.order)]
    assert order == [(None, 0), (None, 8), (None, 1), ("blind", 4), ("blind", 8), ("upside_down", 4)]


def test_greedy_is_the_main_decoding_where_it_was_run():
    assert main_decoding(["beam3", "greedy", "beam10"]) == "greedy"
    assert main_decoding(["beam5", "beam3"]) == "beam3"


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


@pytest.mark.parametrize(("text", "message"), [("", "JSON"), ("[]", "list"), ("{}", "list"), ("[3]", "row 0")])
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
