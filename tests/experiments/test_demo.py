"""The demo's three commands in small: training, evaluation, report, and what is seen when they are run again."""

import json

import pytest

from experiments.evaluate import run_evaluation
from experiments.train import run_training
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.report.page import write_report
from tests.experiments.test_configs import composed

TINY = ("data.documents.captions.batch=2", "data.documents.captions.least=2", "data.documents.captions.most=3")
SMALL = ("experiment=demo", "debug=quick", *TINY, "wandb.mode=disabled")


SMALL_EVALUATION = ("task.number=4", "shots=[0,2]", "control_shots=[2]", "seeds=[0,1]", "batch_size=4")


def evaluation(run, *overrides):
    return composed("evaluate", f"run={run}", *SMALL_EVALUATION, *overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "demo"
    run_training(composed("train", *SMALL, f"output={output}"), output)
    run_evaluation(evaluation(output))
    write_report(output)
    return output


def test_all_that_the_demo_promises_is_there(run):
    for name in ("config.yaml", "history.jsonl", "predictions.jsonl", "scores.json", "few_shot.png", "report.html"):
        assert (run / name).stat().st_size > 0
    model = FlamingoForConditionalGeneration.from_pretrained(run / "checkpoint")
    assert any(gate.abs().max() > 0 for name, gate in model.named_parameters() if name.endswith("_gate"))
    processor = FlamingoProcessor.from_pretrained(run / "checkpoint")
    assert processor.new_token_ids == model.config.new_token_ids


def test_every_setting_is_scored_once(run):
    rows = json.loads((run / "scores.json").read_text())
    keys = ("shots", "demonstrations", "control", "seed")
    settings = [tuple(row[key] for key in keys) for row in rows if row["metric"] == "exact_match"]
    assert len(settings) == len(set(settings))
    controls = ("blind", "shuffled_images", "shuffled_captions", "copied_caption")
    assert set(settings) == {
        (0, None, None, 0),
        *((0, "text_only", None, seed) for seed in (0, 1)),
        *((2, "random", None, seed) for seed in (0, 1)),
        *((2, "random", control, seed) for control in controls for seed in (0, 1)),
    }


def test_a_checkpoint_is_evaluated_wherever_it_lies(run, tmp_path):
    checkpoint = ("run=null", f"checkpoint={run / 'checkpoint'}", *SMALL_EVALUATION)
    run_evaluation(composed("evaluate", *checkpoint, f"output={tmp_path / 'there'}"))
    for file in ("scores.json", "predictions.jsonl"):
        assert (tmp_path / "there" / file).read_bytes() == (run / file).read_bytes()
    with pytest.raises(ValueError, match=r"Say run=FOLDER, or checkpoint=FOLDER and output=FOLDER"):
        run_evaluation(composed("evaluate", *checkpoint))


def test_a_second_run_over_the_same_folder_changes_nothing(run):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    run_training(composed("train", *SMALL, f"output={run}"), run)
    run_evaluation(evaluation(run))
    write_report(run)
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_another_config_in_the_same_folder_is_refused(run):
    with pytest.raises(ValueError, match=r"optimizer\.rate was 0\.001, is 0\.5.*overwrite=true"):
        run_training(composed("train", *SMALL, f"output={run}", "optimizer.rate=0.5"), run)
    with pytest.raises(ValueError, match=r"task\.number was 4, is 5"):
        run_evaluation(evaluation(run, "task.number=5"))


def test_settings_are_added_to_those_that_are_there(run, tmp_path):
    before = (run / "predictions.jsonl").read_text()
    run_evaluation(evaluation(run, "shots=[0,1,2]", "seeds=[0]"))
    after = (run / "predictions.jsonl").read_text()
    assert after.startswith(before)
    assert {json.loads(line)["shots"] for line in after.removeprefix(before).splitlines()} == {1}


def test_errors_name_what_is_wrong(tmp_path, run):
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*nowhere"):
        run_evaluation(evaluation(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"task\.kind: must be one of .*questions, images; got 'caption'"):
        run_evaluation(evaluation(run, "task.kind=caption"))
    with pytest.raises(ValueError, match=r"task\.ways: captions has no use for it"):
        run_evaluation(evaluation(run, "task.ways=3"))
    broken = composed("train", *SMALL, f"output={tmp_path}", "data.documents.captions.kind=caption")
    with pytest.raises(ValueError, match="captions, binding, questions; got 'caption'"):
        run_training(broken, tmp_path)
