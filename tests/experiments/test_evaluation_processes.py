"""The command on several processes writes the files of one: questions, RICES with kept features, VL-ICL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs.run_evaluation import run_evaluation
from tests.data.readers.question_files import LAYOUTS
from tests.evaluation.fake import model_and_processor
from tests.evaluation.tasks.vl_icl_layout import LAYOUTS as VL_ICL_LAYOUTS
from tests.helpers import tiny_clip
from tests.helpers.configs import composed
from tests.helpers.forked import values_of_processes

pytestmark = pytest.mark.full
ROOT = Path(__file__).parent.parent.parent


def questions(backbones, folder):
    """Returns the arguments of an evaluation with all selections of demonstrations."""
    model, processor = model_and_processor(backbones, gates=0.3)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    tiny_clip.save(folder / "clip")
    write, support, query = LAYOUTS["vqav2"]
    files = (f"task.support={write(folder, support, 12)}", f"task.query={write(folder, query, 5)}")
    names = "demonstrations=[random,rices,rices_question,rices_sum]"
    settings = ("shots=[0,2]", "controls=[blind,nearest_caption,majority_answer]", "num_orders=2", "max_new_tokens=2")
    settings += ("control_shots=[2]", "num_beams=[1]", "text_only=false")
    given = (f"checkpoint={folder / 'checkpoint'}", f"rices_encoder={folder / 'clip'}", "batch_size=2", "pictures=1")
    return ("task=vqav2", *files, names, *settings, *given)


def vl_icl(demo, root):
    VL_ICL_LAYOUTS["vl_icl_operator_induction"](root)
    settings = ("prefix=''", "shots=[0,4]", "control_shots=[4]", "max_new_tokens=2", "attention_queries=1")
    return (f"run={demo}", "task=vl_icl_operator_induction", f"task.root={root}", "batch_size=1", *settings)


def results(folder):
    """Returns the content of each file of results, and of features."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".yaml":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_questions_on_three_processes_have_the_files_of_one(backbones, tmp_path):
    pytest.importorskip("sklearn")
    given = questions(backbones, tmp_path)
    run_evaluation(composed("evaluate", *given, f"output={tmp_path / 'one'}"))
    values_of_processes(3, run_evaluation, composed("evaluate", *given, f"output={tmp_path / 'three'}"))
    one = results(tmp_path / "one")
    assert results(tmp_path / "three") == one
    assert {"predictions.jsonl", "features/patches.bin", "submission-vqav2.json"} <= one.keys()


def test_vl_icl_on_two_processes_has_the_files_of_one(demo, tmp_path):
    given = vl_icl(demo, tmp_path / "VL-ICL")
    run_evaluation(composed("evaluate", *given, f"output={tmp_path / 'one'}"))
    values_of_processes(2, run_evaluation, composed("evaluate", *given, f"output={tmp_path / 'two'}"))
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_torchrun_evaluates_and_prints_an_error_once(backbones, tmp_path):
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "experiments.evaluate"]
    line += [*questions(backbones, tmp_path), "device=cpu", f"output={tmp_path / 'out'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for overrides, status in (([], 0), (["max_new_tokens=3"], 1)):
        command = [*line, *overrides]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended.stderr
    assert (tmp_path / "out" / "scores.json").exists()
    [error] = [one for one in ended.stderr.splitlines() if one.startswith("error: ")]
    assert "max_new_tokens" in error and "Traceback" not in ended.stderr.split("torch/distributed")[0]
