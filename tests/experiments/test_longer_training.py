"""More steps continue a finished run and keep its results."""

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed
from tests.helpers.small_runs import ONE_SETTING, TWO_STEPS

CONSTANT = "optimizer.schedule=constant"


def run(output, steps, *overrides):
    config = composed("train", *TWO_STEPS, CONSTANT, f"training.steps={steps}", f"output={output}", *overrides)
    run_training(config, output)


def evaluated(output):
    run_evaluation(composed("evaluate", f"run={output}", *ONE_SETTING))
    return json.loads((output / "scores.json").read_text())


def weights(checkpoint):
    return (checkpoint / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "longer"
    run(output, 2)
    evaluated(output)
    run(output, 4)
    return output


@pytest.mark.full
def test_the_checkpoint_is_that_of_a_run_of_this_length(longer, tmp_path):
    run(tmp_path / "through", 4)
    assert weights(longer / "checkpoint") == weights(tmp_path / "through" / "checkpoint")
    records = [json.loads(line)["step"] for line in (longer / "history.jsonl").read_text().splitlines()]
    assert records == [1, 2, 3, 4]
    assert yaml.safe_load((longer / "config.yaml").read_text())["training"]["steps"] == 4


@pytest.mark.full
def test_the_shorter_run_and_its_scores_remain_evaluable(longer, tmp_path):
    kept = longer / "2-steps"
    run(tmp_path / "short", 2)
    assert weights(kept / "checkpoint") == weights(tmp_path / "short" / "checkpoint")
    names = {path.name for path in kept.iterdir()}
    assert names >= {
        "config.yaml",
        "history.jsonl",
        "scores.json",
        "differences.json",
        "in_context.json",
        "predictions.jsonl",
        "evaluate-synthetic_captions.yaml",
    }
    assert yaml.safe_load((kept / "config.yaml").read_text())["training"]["steps"] == 2
    before = json.loads((kept / "scores.json").read_text())
    assert evaluated(kept) == before
    assert not (longer / "scores.json").exists() and not (longer / "differences.json").exists()
    assert evaluated(longer)


@pytest.mark.full
def test_the_same_or_fewer_steps_train_and_move_nothing(longer, tmp_path):
    before = weights(longer / "checkpoint")
    run(longer, 4)
    with pytest.raises(UserError, match=r"training\.steps was 4, is 3"):
        run(longer, 3)
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        run(longer, 6, "optimizer.lr=0.5")
    assert weights(longer / "checkpoint") == before
    assert not (longer / "4-steps").exists()


@pytest.mark.full
def test_without_a_state_to_continue_from_it_is_refused(longer, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(longer, output)
    shutil.rmtree(output / "state")
    with pytest.raises(UserError, match=r"^training\.steps was 4, is 6, .* no state"):
        run(output, 6)
    assert load_file(output / "checkpoint" / "model.safetensors")
