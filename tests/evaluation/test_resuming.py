"""Only complete settings of an earlier evaluation are kept."""

import pytest

from flamingo.evaluation.resuming import load_complete_settings
from flamingo.results import append_predictions, read_prediction_rows
from flamingo.utils.errors import UserError
from tests.helpers.result_rows import row, setting


def test_only_whole_settings_are_kept_and_others_left_alone(tmp_path):
    file = tmp_path / "out" / "predictions.jsonl"
    assert load_complete_settings(file, {setting(4): [(0, "a")]}) == {}
    append_predictions(file, [row("b"), row("a"), row("a", shots=8), row("a", shots=16)])
    asked = {setting(shots): [(0, "a"), (0, "b")] for shots in (4, 8, 32)}
    assert load_complete_settings(file, asked) == {setting(4): [row("a"), row("b")]}  # in the order asked
    assert read_prediction_rows(file) == [row("b"), row("a"), row("a", shots=16)]
    append_predictions(file, [row("c", order=1)])
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"has 1 .*\(1, 'c'\)"):
        load_complete_settings(file, asked)
    assert file.read_bytes() == before
