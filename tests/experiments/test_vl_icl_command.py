"""VL-ICL Bench by the command: from its own files to scores, pictures and checksums."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs.run_evaluation import run_evaluation
from flamingo.results import read_prediction_rows
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config
from tests.evaluation.tasks.vl_icl_layout import LAYOUTS
from tests.helpers.configs import composed

pytestmark = pytest.mark.full
ROOT = Path(__file__).parent.parent.parent


def arguments(name, demo, root, output):
    LAYOUTS[name](root)
    # The instructions do not fit the 384 tokens of the small language model.
    settings = (
        "prefix=''",
        "shots=[0,4]",
        "control_shots=[4]",
        "max_new_tokens=2",
        "pictures=1",
        "attention_queries=1",
    )
    return (f"run={demo}", f"task={name}", f"task.root={root}", f"output={output}", *settings)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_task_is_evaluated_at_0_and_4_shots(name, demo, tmp_path):
    root, output = tmp_path / "VL-ICL", tmp_path / "out"
    run_evaluation(composed("evaluate", *arguments(name, demo, root, output)))
    rows = json.loads((output / "scores.json").read_text())
    assert {(row["task"], row["shots"]) for row in rows} == {(name, 0), (name, 4)}
    accuracies = [row for row in rows if row["metric"] == "vl_icl_accuracy"]
    assert {row["control"] for row in accuracies} >= {None, "blind", "shuffled_images", "shuffled_captions"}
    assert all(len(row["ci95"]) == 2 for row in accuracies)
    predictions = read_prediction_rows(output / "predictions.jsonl")
    markers = {row["prompt"].count("<image>") for row in predictions}
    assert markers == ({2, 10} if name.endswith(("matching_mi", "interleaved")) else {1, 5})
    if name == "vl_icl_matching_mi":
        assert {row["shots_per_class"] for row in rows if row["shots"] == 4} == {2}


def test_the_command_evaluates_a_task_and_notices_other_data(demo, tmp_path):
    given = (*arguments("vl_icl_operator_induction", demo, tmp_path / "VL-ICL", tmp_path / "out"), "controls=[]")
    line = [sys.executable, "-m", "experiments.evaluate", *given]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    recorded = read_config(tmp_path / "out" / "evaluate-vl_icl_operator_induction.yaml")
    assert set(recorded["contents"]) == {"checkpoint", "files"}
    picture = next((tmp_path / "VL-ICL" / "operator_induction" / "query").iterdir())
    other = next((tmp_path / "VL-ICL" / "operator_induction" / "support").iterdir())
    picture.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="files"):
        run_evaluation(composed("evaluate", *given))
