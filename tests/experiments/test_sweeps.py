"""Runs of sweeps: every launcher, one complete folder a run, evaluation, resume and failures."""

import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.cli.command import CONF
from experiments.cli.extra_arguments import folder_arguments, sweep_run_name
from experiments.report import ReportConfig
from experiments.runs.run_report import run_report
from experiments.runs.run_training import run_training
from experiments.schema import as_recorded
from experiments.setup.build import build_model
from experiments.setup.evaluation_plan import plan
from experiments.setup.preparation import FILES
from flamingo.evaluation import ObjectiveConfig
from flamingo.evaluation.search_objective import check_objective, objective
from flamingo.report import VariantConfig
from flamingo.utils.errors import UserError
from flamingo.utils.run_folder import run_folder
from tests.helpers.configs import composed
from tests.helpers.small_runs import TWO_STEPS, files_of

EVALUATION = "evaluate=[{kind:synthetic_captions,task:{num_queries:2},shots:[0,2],controls:[],text_only:false}]"
ROOT = Path(__file__).parents[2]


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def sweep(*overrides):
    command = [sys.executable, "-m", "experiments.train", "-m", *TWO_STEPS, *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_a_repeated_run_with_its_evaluation_changes_nothing(tmp_path):
    config = composed("train", *TWO_STEPS, EVALUATION, f"output={tmp_path}", "objective.task=synthetic_captions")
    value = run_training(config, tmp_path, ["seed=0"])
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert {row["shots"] for row in rows} == {0, 2}
    assert value == next(row["value"] for row in rows if (row["shots"], row["metric"]) == (0, "exact_match"))
    assert yaml.safe_load((tmp_path / "overrides.yaml").read_text()) == ["seed=0"]
    before = files_of(tmp_path)
    assert run_training(config, tmp_path, ["seed=0"]) == value
    assert files_of(tmp_path) == before


def test_the_objective_is_the_last_loss_or_the_named_score(tmp_path):
    lines = [json.dumps({"step": i, "loss": float(i), "gates": {}}) + "\n" for i in range(40)]
    (tmp_path / "history.jsonl").write_text("".join(lines))
    assert objective(tmp_path, ObjectiveConfig()) == 37.5
    row = {"task": "a", "shots": 4, "demonstrations": "random", "support": None, "template": None}
    row |= {"decoding": "greedy", "metric": "CIDEr", "n": 9}
    rows = [row | {"control": c, "seed": s, "value": v, "ci95": None} for c, s, v in ((None, 0, 0.2), (None, 1, 0.4))]
    rows += [row | {"control": "blind", "seed": 0, "value": 9.0, "ci95": None}]
    rows += [row | {"control": None, "support": "other", "seed": 0, "value": 9.0, "ci95": None}]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    assert objective(tmp_path, ObjectiveConfig("a", 4, "CIDEr")) == pytest.approx(0.3)
    with pytest.raises(UserError, match=r"scores\.json.*CIDEr.*8"):
        objective(tmp_path, ObjectiveConfig("a", 8, "CIDEr"))


CAPTIONS_TASK = "objective.task=synthetic_captions"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["objective.task=synthetic_binding_2way"], r"objective\.task=synthetic_binding_2way.*synthetic_captions"),
        ([CAPTIONS_TASK, "objective.shots=4"], r"objective\.shots=4"),
        ([CAPTIONS_TASK, "objective.metric=METEOR"], r"objective\.metric=METEOR"),
        (
            [CAPTIONS_TASK, "objective.metric=valid_name_rate"],
            r"objective\.metric=valid_name_rate",
        ),
        ([CAPTIONS_TASK, "objective.metric=exact_match_order_std"], r"objective\.metric"),
        # Two demonstrations without their images are no plain setting with 0 shots.
        (
            [EVALUATION.replace("[0,2]", "[2]").replace(":false", ":true"), CAPTIONS_TASK],
            "shots=0",
        ),
    ],
)
def test_an_impossible_objective_is_found_before_training(tmp_path, overrides, named):
    with pytest.raises(UserError, match=named):
        run_training(composed("train", *TWO_STEPS, EVALUATION, *overrides), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["failure.txt"]


@pytest.mark.parametrize(
    ("task", "shots", "orders", "metrics"),
    [
        ("synthetic_captions", 2, 1, {"exact_match", "attribute_accuracy", "CIDEr", "BLEU-1", "BLEU-4"}),
        ("synthetic_questions", 2, 2, {"exact_match", "exact_match_order_std"}),
        ("synthetic_binding", 0, 2, {"exact_match", "valid_name_rate"}),
        (
            "synthetic_binding",
            2,
            1,
            {"exact_match", "valid_name_rate", "exact_match_of_valid"}
            | {"exact_match_distance_1", "exact_match_distance_2"},
        ),
    ],
)
def test_only_a_metric_of_the_task_can_be_an_objective(task, shots, orders, metrics):
    options = (f"shots=[{shots}]", f"num_orders={orders}", "controls=[]", "seeds=[0]", "text_only=false", "run=a")
    planned = plan(composed("evaluate", f"task={task}", "task.num_queries=12", *options))
    evaluations = [(planned.task, planned.config)]
    for metric in metrics:
        check_objective(ObjectiveConfig(planned.task.name, shots, metric), evaluations)
    with pytest.raises(UserError, match=rf"objective\.metric=none .*: {', '.join(sorted(metrics))}$"):
        check_objective(ObjectiveConfig(planned.task.name, shots, "none"), evaluations)


@pytest.mark.full
def test_a_failed_run_keeps_its_reason_until_it_runs_again(tmp_path):
    broken = composed("train", *TWO_STEPS, "data.root=somewhere")
    with pytest.raises(UserError, match=r"data\.root.*somewhere"):
        run_training(broken, tmp_path)
    assert (tmp_path / "failure.txt").read_text().startswith("UserError: ")
    run_training(composed("train", *TWO_STEPS), tmp_path)
    assert not (tmp_path / "failure.txt").exists()


def test_a_mistake_in_an_evaluation_is_found_before_training(tmp_path):
    config = composed("train", *TWO_STEPS, "evaluate=[{kind:synthetic_captions,shot:[0]}]")
    with pytest.raises(Exception, match="shot"):
        run_training(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["failure.txt"]


@pytest.mark.full
def test_parallel_processes_continue_after_one_fails(tmp_path):
    overrides = (f"output={tmp_path}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", EVALUATION)
    first = sweep(*overrides, "model.language=embedded,none", "seed=0")
    assert first.returncode != 0
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2, first.stderr
    done, failed = (tmp_path / f"model.language-{name}" for name in ("embedded", "none"))
    assert (done / "scores.json").exists() and not (failed / "scores.json").exists()
    markdown, *_ = run_report(ReportConfig(runs=f"{tmp_path}/*"))
    assert markdown.parent == tmp_path
    assert f"- `{failed}`: failed: UserError: " in markdown.read_text()
    before = files_of(done)
    assert sweep(*overrides, "model.language=embedded,none", "seed=0").returncode != 0
    assert files_of(done) == before


@pytest.mark.full
def test_the_sweep_of_the_readme_ends_in_a_report(tmp_path):
    """With fewer steps and queries."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    [train] = [shlex.split(line) for line in lines if line.startswith("python -m experiments.train -m ")]
    [report] = [shlex.split(line) for line in lines if line.startswith("python -m experiments.report runs=")]
    output = next(argument for argument in train if argument.startswith("output=")).removeprefix("output=")
    shorter = ["training.steps=2", "training.save_every=2", "optimizer.warmup_steps=1", "tracker=none"]
    moved = [argument.replace(output, str(tmp_path)) for argument in train + shorter]
    result = subprocess.run([sys.executable, *moved[1:], EVALUATION], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == [f"ablation-{name}+seed-{seed}" for name in ("baseline", "no_gate") for seed in (0, 1)]
    runs = report[-1].removeprefix("runs=").replace(output, str(tmp_path))
    run_report(ReportConfig(runs=runs))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert text.startswith("# 2 variants, 4 runs") and "None." in text


@pytest.mark.full
def test_the_runs_of_a_sweep_end_when_it_is_killed(tmp_path):
    options = (f"output={tmp_path}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.steps=100000")
    command = [sys.executable, "-m", "experiments.train", "-m", *TWO_STEPS, *options, "seed=0,1"]
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(tmp_path.glob("seed-*/history.jsonl"))) == 2, seconds=600)
    workers = psutil.Process(launcher.pid).children(recursive=True)
    assert len(workers) >= 2
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers), seconds=60)
    with run_folder(tmp_path / "seed-0", {}, FILES, check=False):
        pass  # its lock is free


@pytest.mark.full
def test_sweep_folders_are_flat_and_leave_out_common_paths(tmp_path):
    """The runs fail before they load anything; what counts is where."""
    paths = [tmp_path / name / "model" for name in "ab"]
    result = sweep(
        *(f"output={tmp_path / 'sweep'}", f"model.language={tmp_path}/language", f"variant.name={tmp_path}/a"),
        *(f"model.vision={','.join(map(str, paths))}", "optimizer.betas=[0.9,0.98]"),
    )
    assert result.returncode != 0
    folders = [path.parent for path in (tmp_path / "sweep").rglob("failure.txt")]
    assert len(folders) == 2 and {folder.parent for folder in folders} == {tmp_path / "sweep"}, result.stderr
    for folder in folders:
        assert "model.vision" in folder.name and "language" not in folder.name and "variant" not in folder.name
        assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,240}", folder.name)


def folder_names(*arguments, sweep=()):
    """The names of the folders of a sweep's runs, whose config sweeps further keys."""
    [excluded] = folder_arguments(["-m", *arguments]) or [""]
    left_out = excluded.partition("=")[2].strip("[]").replace("'", "").split(",")
    parser = OverridesParser.create()
    overrides = [parser.parse_override(text) for text in (*sweep, *arguments)]
    texts_of = {}
    for override in overrides:
        texts = [override.input_line]
        if override.is_sweep_override():
            texts = [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
        texts_of[override.key_or_group] = texts
    names = []
    for texts in itertools.product(*texts_of.values()):
        run = parser.parse_overrides(list(texts))
        dirname = get_overrides_dirname(overrides=run, exclude_keys=left_out, item_sep="+", kv_sep="-")
        names.append(sweep_run_name(dirname))
    return names


def test_folders_are_named_after_what_is_swept_alone():
    fixed = ("experiment=demo", "training.steps=5", "model/connector=mlp", "output=a/b", "+data.documents.x={a:1}")
    assert folder_names(*fixed, "seed=0,1") == ["seed-0", "seed-1"]
    swept = ("model.fusion.every=1,2", "seed=0,1", "num_workers=0")
    assert folder_names(*swept) == [f"model.fusion.every-{every}+seed-{seed}" for every in (1, 2) for seed in (0, 1)]
    assert folder_names("model.vision=/a,/b", "data.root=here")[0].startswith("model.vision-_a-")


def test_keys_that_a_config_sweeps_are_named_unless_overridden():
    sweep = ("seed=0,1", "ablation=baseline,mlp")
    assert folder_names("sweep=ablations", sweep=sweep)[0] == "ablation-baseline+seed-0"
    assert folder_names("sweep=ablations", "seed=3", sweep=sweep) == ["ablation-baseline", "ablation-mlp"]


def test_a_key_that_changes_no_result_is_named_when_swept():
    """Else two runs would share a folder."""
    assert folder_names("experiment=demo,synthetic", "seed=1") == ["experiment-demo", "experiment-synthetic"]


def test_names_that_the_command_line_chooses_stay():
    assert folder_arguments(["-m", "seed=0,1", "hydra.job.config.override_dirname.exclude_keys=[seed]"]) == []


def test_a_run_without_overrides_has_the_folder_of_the_sweep():
    assert sweep_run_name("") == ""
    assert sweep_run_name("model.fusion.every-2+seed-0") == "model.fusion.every-2+seed-0"
    assert "/" not in sweep_run_name("model.vision-/data/clip") != sweep_run_name("model.vision-_data_clip")


@pytest.mark.full
def test_submitit_runs_jobs_of_their_own(tmp_path):
    result = sweep(f"output={tmp_path}", "hydra/launcher=submitit_local", "seed=3,4")
    assert result.returncode == 0, result.stderr
    for seed in (3, 4):
        run = tmp_path / f"seed-{seed}"
        assert yaml.safe_load((run / "config.yaml").read_text())["training"]["seed"] == seed
        assert (run / "checkpoint").is_dir()


# ------------------------------------------------------------------------------- ablations


def ablations():
    config = yaml.safe_load((CONF / "sweep" / "ablations.yaml").read_text())
    text = config["hydra"]["sweeper"]["params"]["ablation"]
    return [str(name) for name in OverridesParser.create().parse_override(f"ablation={text}").value().list]


def test_the_sweep_runs_every_ablation_once():
    assert sorted(ablations()) == sorted(path.stem for path in (CONF / "ablation").glob("*.yaml"))


@pytest.mark.full
def test_no_two_ablations_are_alike_but_in_their_names():
    configs = {name: composed("train", "experiment=ablation", f"ablation={name}") for name in ablations()}
    assert len({config.variant.name for config in configs.values()}) == len(configs)
    settings = [json.dumps(as_recorded(replace(config, variant=VariantConfig()))) for config in configs.values()]
    assert len(set(settings)) == len(settings)
    assert configs["pairs_only"].data.documents.keys() == {"pairs"}
    assert configs["interleaved_only"].data.documents.keys() == {"captions", "binding"}
    assert configs["baseline"].data.documents.keys() == {"captions", "binding", "pairs"}


@pytest.mark.full
def test_a_language_model_from_scratch_has_new_weights():
    chosen = {
        name: build_model(composed("train", "experiment=ablation", f"ablation={name}").model)[0]
        for name in ("baseline", "language_from_scratch", "new_tokens_frozen", "one_in_the_middle")
    }
    own, scratch = (dict(chosen[n].language_model.named_parameters()) for n in ("baseline", "language_from_scratch"))
    matrix = "model.layers.0.self_attn.q_proj.weight"
    assert own.keys() == scratch.keys() and not own[matrix].allclose(scratch[matrix], atol=1e-2)
    assert scratch[matrix].requires_grad and not own[matrix].requires_grad
    mean = scratch["model.embed_tokens.weight"].mean(0)
    assert chosen["language_from_scratch"].new_tokens.input_rows[0].allclose(mean)
    assert not any(p.requires_grad for p in chosen["new_tokens_frozen"].new_tokens.parameters())
    assert list(chosen["one_in_the_middle"].fusion.blocks) == ["2"]


def test_a_trained_backbone_has_to_be_in_the_checkpoint(tmp_path):
    config = composed("train", *TWO_STEPS, "include_backbones=false", "model.trainable=[connector,vision_model]")
    with pytest.raises(UserError, match=r"vision_model changes, .* include_backbones=true"):
        run_training(config, tmp_path)
