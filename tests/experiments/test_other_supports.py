"""Demonstrations of other data sets beside those of a task's own support, in one folder."""

import json

import pytest
import yaml

from experiments.runs.run_evaluation import run_evaluation
from flamingo.difference_rows import OWN_SUPPORT, read_differences
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.report.page import write_report
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path
from tests.evaluation.fake import model_and_processor
from tests.experiments.conftest import shard
from tests.helpers.configs import composed


@pytest.fixture(scope="module")
def checkpoint(backbones, tmp_path_factory):
    """An untrained model."""
    folder = tmp_path_factory.mktemp("untrained") / "checkpoint"
    model, processor = model_and_processor(backbones)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """Seven pictures with ids of the own support; one has a special token, the last shows the second query."""
    folder = tmp_path_factory.mktemp("cats")
    said = {number: [f"a cat {number}"] for number in range(30, 36)} | {35: ["<image> a cat"], 21: ["a cat 21"]}
    shard(folder / "train-000000.tar", [*range(30, 36), 21], keys=range(7), said=said)
    return folder


def evaluation(checkpoint, shards, output, *overrides):
    return composed(
        "evaluate",
        *("task=flickr8k", f"task.support={shards}/train-*.tar", f"task.query={shards}/dev-*.tar"),
        *(
            "task.metrics=[CIDEr]",
            "shots=[0,2]",
            "control_shots=[2]",
            "num_beams=[1]",
            "max_new_tokens=2",
            "text_only=false",
        ),
        *("run=null", f"checkpoint={checkpoint}", f"output={output}"),
        f"features.folder={checkpoint.parent / 'features'}",
        *overrides,
    )


def rows_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_both_supports_are_shown_and_compared(checkpoint, shards, cats, tmp_path):
    few = ("demonstrations=[random]", "controls=[copied_caption,shuffled_captions]", "limit=2")
    run_evaluation(evaluation(checkpoint, shards, tmp_path, *few, f"+task.other_supports.cats={cats}/*.tar"))
    rows = rows_of(tmp_path)
    settings = {(row["shots"], row["support"], row["control"]) for row in rows}
    with_both = {(2, support, control) for support in (None, "cats") for control in (None, "copied_caption")}
    assert settings == {(0, None, None), *with_both, (2, None, "shuffled_captions")}
    assert len(rows) == 2 * len(settings)
    for row in rows:
        of_cats = row["support"] == "cats"
        assert all(id.startswith("cats/") == of_cats for id in row["demonstration_ids"])
        assert all(answer.startswith("a cat ") == of_cats for answer in row["demonstration_answers"])
        assert row["prompt"].count("a cat ") == 2 * of_cats
        if row["control"] is None:
            for id in row["demonstration_ids"]:
                assert picture_path(tmp_path / "pictures", "flickr8k", id).is_file()
    looked = json.loads((tmp_path / "images-flickr8k.json").read_text())
    duplicates = {(pair["query"], f"cats/{pair['image']}") for pair in looked["near_duplicates"]["support cats"]}
    assert ("0101", "cats/0006") in duplicates
    assert not duplicates & {(row["query"], id) for row in rows for id in row["demonstration_ids"]}
    assert list(looked["skipped"]) == ["cats/0005"]
    compared = [row for row in read_differences(tmp_path / "differences.json") if row.kind == OWN_SUPPORT]
    assert [(row.setting.support, row.subtracted.support) for row in compared] == [("cats", None)]


@pytest.mark.full
def test_a_support_is_added_to_a_finished_evaluation(checkpoint, shards, cats, tmp_path, monkeypatch):
    own = ("controls=[]",)
    run_evaluation(evaluation(checkpoint, shards, tmp_path, *own))
    before = (tmp_path / "predictions.jsonl").read_bytes()
    own += (f"+task.other_supports.cats={cats}/*.tar",)
    run_evaluation(evaluation(checkpoint, shards, tmp_path, *own))
    both = (tmp_path / "predictions.jsonl").read_bytes()
    assert both.startswith(before) and len(rows_of(tmp_path)) == 4 * 5

    def generate(*args, **kwargs):
        raise AssertionError("the model is asked again")

    with monkeypatch.context() as patch:
        patch.setattr(FlamingoEngine, "generate", generate)
        run_evaluation(evaluation(checkpoint, shards, tmp_path, *own))
        run_evaluation(evaluation(checkpoint, shards, tmp_path, *own[:1]))  # the predictions of the other one stay
    assert (tmp_path / "predictions.jsonl").read_bytes() == both
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "RICES, support cats" in page and "2 shots, support cats \N{MINUS SIGN} 2 shots" in page
    last_row = both.rindex(b"\n", 0, -1) + 1
    (tmp_path / "predictions.jsonl").write_bytes(both[: last_row + 20])
    run_evaluation(evaluation(checkpoint, shards, tmp_path, *own))
    assert (tmp_path / "predictions.jsonl").read_bytes() == both


@pytest.mark.full
def test_another_data_set_needs_another_name(checkpoint, shards, cats, tmp_path):
    first = evaluation(checkpoint, shards, tmp_path, "controls=[]", f"+task.other_supports.cats={cats}/*.tar")
    run_evaluation(first)
    run_evaluation(evaluation(checkpoint, shards, tmp_path, "controls=[]"))
    recorded = yaml.safe_load((tmp_path / "evaluate-flickr8k.yaml").read_text())
    assert recorded["contents"]["other_supports"]["cats"].keys() == {"captions", "files"}
    second = f"+task.other_supports.cats={shards}/train-000000.tar"
    with pytest.raises(UserError, match=r"^task\.other_supports\.cats"):
        run_evaluation(evaluation(checkpoint, shards, tmp_path, "controls=[]", second))
    run_evaluation(evaluation(checkpoint, shards, tmp_path, "controls=[]", second.replace(".cats", ".train")))
    recorded = yaml.safe_load((tmp_path / "evaluate-flickr8k.yaml").read_text())
    assert recorded["contents"]["other_supports"].keys() == {"cats", "train"}
    with pytest.raises(UserError, match=r"task\.other_supports\.cats.*nowhere"):
        run_evaluation(evaluation(checkpoint, shards, tmp_path, "controls=[]", "+task.other_supports.cats=nowhere"))
