"""Every id has its own file, with any characters and any length."""

from pathlib import Path

import pytest

from flamingo.utils.names import file_name, picture_path, short_name

#: What differs in characters alone that a file's name cannot hold, or in what lies behind its longest length.
ALIKE = [
    *("a/b", "a_b", "a:b", "a\\b", "a b", "a*b", "a?b", 'a"b', "a<b", "a|b", "a\nb", "a\0b"),
    *("猫", "犬", "\u00e9", "e\u0301", ".", "..", ".a", "a/../b", "", " "),
    *("n" * 1000, "n" * 1001, "n" * 240 + "猫", "n" * 240 + "犬"),
    "\udce9",
]


def test_a_plain_text_is_its_own_name():
    for text in ("COCO_val2014_000000391895.jpg", "0103", "model.fusion.every-2+seed-0", "1e-05", "n" * 240):
        assert file_name(text) == text


def test_other_texts_get_unique_names_that_file_systems_hold(tmp_path):
    names = [file_name(text) for text in ALIKE]
    assert len({name.lower() for name in names}) == len(ALIKE)
    assert names == [file_name(text) for text in ALIKE]
    for name in names:
        assert len(name.encode()) <= 240 and not name.startswith(".") and name.isascii()
        assert (tmp_path / f"{name}.png").resolve().parent == tmp_path
        (tmp_path / name).write_text("")
    assert len(list(tmp_path.iterdir())) == len(ALIKE)


@pytest.mark.parametrize("task", ["synthetic_captions", "flickr8k", "../other"])
def test_tasks_with_equal_ids_keep_images_in_their_own_folders(task):
    paths = {picture_path(Path("pictures"), name, id) for name in (task, "coco") for id in ("1", "2")}
    assert len(paths) == 4
    assert all(path.parent.parent == Path("pictures") and path.suffix == ".png" for path in paths)


def test_a_long_run_name_is_short_in_a_bar_and_keeps_its_end():
    assert short_name(Path("outputs/ablation-baseline+seed-0/")) == "ablation-baseline+seed-0"
    assert short_name(Path("outputs") / ("a" * 40)) == "a" * 40
    short = short_name(Path("outputs") / f"{'a' * 40}+seed-1")
    assert len(short) == 40 and short.endswith("aaa+seed-1") and short[0] == "\N{HORIZONTAL ELLIPSIS}"
    assert short_name(Path()) == Path.cwd().name
