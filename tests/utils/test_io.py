"""Files and folders are complete or absent, and errors name them."""

import os

import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file

from flamingo.utils import io
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.disk import full_disk

WRITERS = {
    "text": lambda path: io.write_text(path, "new" * 1000),
    "torch": lambda path: _through_stream(path, lambda stream: torch.save({"a": torch.zeros(10_000)}, stream)),
    "pillow": lambda path: _through_stream(path, lambda stream: PILImage.new("RGB", (99, 99)).save(stream, "PNG")),
}


def _through_stream(path, save):
    with io.atomic_file(path, "wb") as stream:
        save(stream)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_keeps_the_old_file_and_the_error_names_it(tmp_path, monkeypatch, writer):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(io, "write", full_disk(1))
    with pytest.raises(UserError, match=rf"^{path}: No space left on device$"):
        WRITERS[writer](path)
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["file"]
    monkeypatch.undo()
    WRITERS[writer](path)
    assert path.stat().st_size > 3


def test_lines_that_do_not_fit_leave_those_that_are_there(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    io.append(path, b"first\n")
    monkeypatch.setattr(io, "write", full_disk(1))
    with pytest.raises(UserError, match=rf"^{path}: No space"):
        io.append(path, b"second\n")
    assert path.read_bytes() == b"first\n"


def test_a_folder_appears_when_all_of_it_is_written(tmp_path):
    target = tmp_path / "checkpoint"
    with io.atomic_folder(target) as folder:
        (folder / "a").write_text("first")
        assert not target.exists()
    with pytest.raises(UserError, match=f"^{target}: disk full"), io.atomic_folder(target) as folder:
        (folder / "a").write_text("half")
        raise OSError("disk full")
    assert (target / "a").read_text() == "first"
    with io.atomic_folder(target) as folder:
        (folder / "b").write_text("second")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_killed_replacement_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch, renames):
    target = tmp_path / "checkpoint"
    with io.atomic_folder(target) as folder:
        (folder / "old").touch()
    if (pid := os.fork()) == 0:
        rename, left = io.Path.rename, [renames]

        def kill_after(self, other):
            rename(self, other)
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)

        monkeypatch.setattr(io.Path, "rename", kill_after)
        with io.atomic_folder(target) as folder:
            (folder / "new").touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (tmp_path / "mine.old").touch()
    io.remove_leftovers(tmp_path)
    assert [path.name for path in target.iterdir()] == [{1: "old", 2: "new"}[renames]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "mine.old"]


def test_writers_in_other_languages_are_understood(tmp_path):
    """A file of the name of its folder: neither safetensors nor tokenizers raises OSError."""
    (tmp_path / "model.safetensors").mkdir()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").mkdir()
    for save in (
        lambda: save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors"),
        lambda: tiny.tokenizer().save_pretrained(tmp_path / "tokenizer"),
    ):
        with pytest.raises(UserError, match=rf"^{tmp_path}.*: Is a directory"), io.file_errors(tmp_path):
            save()


def test_errors_that_are_no_files_keep_their_type(tmp_path):
    with pytest.raises(KeyError), io.atomic_file(tmp_path / "file"):
        raise KeyError
    with pytest.raises(UserError, match=r"^mine$"), io.atomic_folder(tmp_path / "folder"):
        raise UserError("mine")
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_file_leave_one_of_both(tmp_path):
    path = tmp_path / "file"
    with io.atomic_file(path) as first, io.atomic_file(path) as second:
        first.write("1" * 100_000)
        second.write("2" * 10)
    assert path.read_text() == "1" * 100_000
    assert [left.name for left in tmp_path.iterdir()] == ["file"]
