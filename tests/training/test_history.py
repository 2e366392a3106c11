"""What is kept of a history, and how it is read after a run was killed."""

import pytest

from flamingo.training.history import History
from flamingo.utils.errors import UserError


def test_records_are_appended_and_later_ones_dropped_with_a_half_written_line(tmp_path):
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
