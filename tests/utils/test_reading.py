"""Text files are read with the origin of each line and row, and unreadable text or JSON is named."""

import gzip
import json
import os

import pytest

from flamingo.utils.errors import UserError
from flamingo.utils.reading import cells, complete_lines, complete_rows, json_object, lines, read_json, rows


@pytest.mark.parametrize("text", ["no", "[1]", '{"a"', "[" * 100_000])
def test_what_is_no_json_object_is_named(text):
    with pytest.raises(UserError, match=r"^f\.jsonl, line 3"):
        json_object(text, "f.jsonl, line 3")


def test_a_cut_off_last_line_is_not_read(tmp_path):
    (tmp_path / "lines").write_bytes(b"one\ntwo\nthr")
    assert complete_lines(tmp_path / "lines") == [b"one", b"two"]
    assert complete_lines(tmp_path / "none") == []


def test_rows_before_a_cut_off_line_have_their_origins(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert list(complete_rows(file)) == [(f"{file}, line 1", {"a": 1}), (f"{file}, line 2", {"a": 2})]
    assert list(complete_rows(tmp_path / "none")) == []
    file.write_text('{"a": 1}\n[2]\n{"a": 3}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2"):
        list(complete_rows(file))


def test_blank_lines_are_skipped_but_counted_in_any_compression(tmp_path):
    text = '\ufeff{"a": 1}\r\n\r\n{"a": "\u2028"}\n'
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8", newline="")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8", newline="") as stream:
        stream.write(text)
    for file in tmp_path.iterdir():
        assert list(lines(file)) == [(f"{file}, line 1", '{"a": 1}'), (f"{file}, line 3", '{"a": "\u2028"}')]
        assert [row for _, row in rows(file)] == [{"a": 1}, {"a": "\u2028"}]


def test_rows_of_a_table_have_the_names_of_its_header(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('a,b\n\n1,"x\ny"\n')
    assert list(rows(file)) == [(f"{file}, line 4", {"a": "1", "b": "x\ny"})]
    assert [row for _, row in cells(file)] == [["a", "b"], ["1", "x\ny"]]
    file.write_text("a,b\n1\n")
    with pytest.raises(UserError, match=r"rows\.csv, line 2"):
        list(rows(file))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xe9t\xe9\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(json.dumps(list(range(999))).encode())[:-20])
    os.mkfifo(tmp_path / "pipe")
    for name in ("latin", "cut.gz", "pipe", "nowhere"):
        for read in (lambda file: list(lines(file)), read_json):
            with pytest.raises(UserError, match=f"{name} cannot be read"):
                read(tmp_path / name)
