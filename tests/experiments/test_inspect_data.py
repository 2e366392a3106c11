"""The report of a data set."""

import json
import logging

from experiments.runs.run_inspection import run_inspection
from tests.data.shelf import photographs, write
from tests.helpers.configs import composed


def test_a_folder_is_reported_in_the_log_and_in_a_file(backbones, tmp_path, caplog):
    names = [f"{number}.png" for number in range(12)]
    photographs(tmp_path / "own", *names)
    for name in names:
        write((tmp_path / "own" / name).with_suffix(".txt"), "一只黑色的狗\n")
    (tmp_path / "own" / "3.png").write_bytes(b"broken")
    write(tmp_path / "own" / "4.txt", "")
    output = tmp_path / "report.json"
    overrides = [f"data.root={tmp_path / 'own'}", f"tokenizer={backbones / 'gpt2'}", f"output={output}"]
    with caplog.at_level(logging.INFO):
        run_inspection(composed("inspect_data", *overrides))
    report = json.loads(output.read_text())
    assert (report["num_images"], report["num_captions"]) == (11, 11)
    assert report["skipped"].keys() == {"3.png", "4.png"}
    assert report["lengths"]["characters"]["median"] == 6
    assert report["lengths"]["tokens"]["median"] > 6
    assert report["pictures"]["formats"] == {"PNG": 10}
    lines = caplog.text
    assert "left out           2: there is no caption (1, the first 4.png)" in lines
    assert "11 x '一只黑色的狗'" in lines
    assert "tokens per character" in lines


def test_images_that_do_not_exist_are_counted(tmp_path):
    photographs(tmp_path, "1.png", "2.png")
    write(tmp_path / "mine.jsonl", [{"image": f"{number}.png", "caption": "A."} for number in range(3)])
    for open_images in ("true", "false"):
        overrides = [f"data.root={tmp_path}", f"open_images={open_images}"]
        summary = run_inspection(composed("inspect_data", *overrides)).summary
        assert summary.num_images == 2 and summary.skipped.keys() == {"0.png"}


def test_a_split_is_looked_at_alone_also_one_that_is_made(tmp_path):
    names = [f"{number}.png" for number in range(12)]
    photographs(tmp_path, *names)
    write(tmp_path / "mine.jsonl", [{"image": name, "caption": f"Of {name}."} for name in names])
    sizes = {}
    for split in ("train", "test", "null"):
        overrides = [f"data.root={tmp_path}", f"data.split={split}", "open_images=false"]
        sizes[split] = run_inspection(composed("inspect_data", *overrides)).summary.splits
    assert sizes == {"train": {"train": 8}, "test": {"test": 2}, "null": {"no split": 12}}
