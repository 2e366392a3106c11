"""The demo's commands with tiny sizes and a visual prefix, which has no gates."""

import json

import pytest

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from experiments.runs.run_word_attention import run_word_attention
from experiments.trackers.tracker import flatten_record
from experiments.word_attention import WordAttentionConfig
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.history import read_history
from flamingo.report.page import write_report
from tests.helpers.configs import composed
from tests.helpers.small_runs import SMALL_DEMO

PREFIX = ("model/fusion=prefix", "model/connector=mlp_projector")
SMALL_EVALUATION = ("task.num_queries=4", "shots=[0,2]", "seeds=[0]", "batch_size=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "prefix"
    run_training(composed("train", *SMALL_DEMO, *PREFIX, f"output={output}"), output)
    run_evaluation(composed("evaluate", f"run={output}", *SMALL_EVALUATION))
    write_report(output)
    run_word_attention(WordAttentionConfig(run=str(output), scenes=4, batch_size=4))
    return output


@pytest.mark.full
def test_training_evaluation_report_and_attention_run(run):
    for name in ("history.jsonl", "predictions.jsonl", "scores.json", "report.html", "attention.json"):
        assert (run / name).stat().st_size > 0
    shares = json.loads((run / "attention.json").read_text())
    assert {row["layer"] for row in shares} == {None, *range(5)}
    rows = json.loads((run / "scores.json").read_text())
    assert {row["control"] for row in rows if row["shots"] == 2} >= {None, "blind", "shuffled_images"}


@pytest.mark.full
def test_the_checkpoint_knows_its_fusion_and_its_positions(run):
    model = FlamingoForConditionalGeneration.from_pretrained(run / "checkpoint")
    processor = FlamingoProcessor.from_pretrained(run / "checkpoint")
    assert model.config.fusion.kind == "prefix"
    assert model.config.image_token_id == processor.image_token_id
    assert processor.tokens_per_image == 4  # 4 x 4 patches in squares of 2 x 2
    assert model.parameter_counts()["fusion"] == 0  # the projector already has the language model's width


def test_a_history_without_gates_is_read(run):
    lines = (run / "history.jsonl").read_text().splitlines()
    assert lines and all("gates" not in json.loads(line) for line in lines)
    records = read_history(run / "history.jsonl")
    assert [record["gates"] for record in records] == [{}] * len(lines)
    assert flatten_record(json.loads(lines[0])).keys() >= {"loss", "lr"}


def test_a_fusion_that_is_none_and_keys_of_another_are_refused():
    with pytest.raises(Exception, match="no_such"):
        composed("train", *SMALL_DEMO, "model/fusion=no_such")
    with pytest.raises(Exception, match="every"):
        composed("train", *SMALL_DEMO, *PREFIX, "model.fusion.every=2")
