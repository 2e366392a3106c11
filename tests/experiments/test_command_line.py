"""Every wrong key and value of a command line is reported with its key, and no right one is."""

import sys

import pytest

import experiments.search  # noqa: F401  # has its schema
from tests.helpers.configs import REQUIRED, problems


def test_all_problems_are_found_together():
    found = problems(
        *("trainig.steps=3", "experiment=captoins", "training.steps=many", "foo", "seed=0,1", "overwrite=maybe"),
        *("model.connector.depth=0", "training.mixing=robin", "optimizer.lr=-1", "num_workers=2", "device=gpu"),
    )
    named = (
        *("foo ", "seed=0,1 ", "experiment=captoins ", "trainig.steps ", "training.steps ", "overwrite "),
        *("model.connector.depth ", "optimizer.lr ", "training.mixing ", "device "),
    )
    assert len(found) == len(named)
    for key in named:
        assert [problem for problem in found if problem.startswith(key)], key
    assert not [problem for problem in found if "num_workers" in problem]


@pytest.mark.parametrize(
    ("override", "suggested"),
    [
        ("experiment=captoins", "did you mean captions?"),
        ("trainig.steps=3", "did you mean training.steps?"),
        ("steps=3", "did you mean training.steps?"),
        ("training.lr=3", "did you mean optimizer.lr?"),
        ("model.visoin=a", "did you mean model.vision?"),
        ("data.documents.captions.bath_size=3", "did you mean data.documents.captions.batch_size?"),
        ("model/connecter=mlp", "did you mean model/connector?"),
        ("model.connector=mlp", "model/connector=NAME: did you mean mlp?"),
        ("ablation=null", "say ~ablation"),
        ("loss=self_critical", "did you mean loss@data.documents.captions.loss?"),
        ("optimizer.learning=3", "the keys of optimizer are kind, lr, "),
        ("training=3", "such as training.steps"),
        ("+training.stepz=3", "did you mean training.steps?"),
        ("~data.rot", "did you mean data.root?"),
        ("seed=0,1", "seed=[0,1] is a list; -m runs each value"),
        ("training.steps=1.5", "must be a whole number"),
        ("optimizer.betas=0.9", "such as optimizer.betas=[0.9]"),
        ("optimizer.lr=fast", "must be a number"),
        ("model.from_scratch=maybe", "must be true or false"),
    ],
)
def test_a_wrong_key_or_value_comes_with_what_may_be_meant(override, suggested):
    [problem] = problems(override)
    key = override.partition("=")[0].lstrip("+~")
    assert problem.startswith(key) and suggested in problem


@pytest.mark.parametrize("override", ["task.other_supports.coco=DIR", "task.other_supports={coco: DIR}"])
def test_a_new_name_in_a_section_of_names_needs_a_plus(override):
    task = (*REQUIRED["evaluate"], "task=captions", "task.name=own", "task.query=DIR", "task.support=DIR")
    found = problems(*task, override, command="evaluate")
    [problem] = [problem for problem in found if problem.startswith("task.other_supports")]
    assert "+task.other_supports." in problem


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.vision=DIR/encoder", "model.language=DIR/language", "output=a/b"),
        ("experiment=captions", "data.root='DIR/train-*.tar'", "data.documents.pairs.num_crops=2"),
        ("experiment=captions", "data.root=DIR", "optimizer.warmup_steps=5000"),
        ("experiment=demo", "debug=quick", "model/connector=mlp", "model.connector.depth=2", "optimizer=muon"),
        ("data=images", "data.root=DIR", "loss@data.documents.pairs.loss=self_critical", "~data.documents.interleaved"),
        ("optimizer.betas=[0.9,0.98]", "device=null", "variant.name='a b'", "evaluate=[{kind: synthetic_captions}]"),
        ("hydra.job.chdir=false", "hydra/job_logging=stdout", "ablation=baseline", "wandb={mode: online}"),
    ],
)
def test_what_is_right_is_no_problem(overrides):
    assert problems(*overrides) == []


def test_values_that_are_right_only_together_are_no_problem():
    together = ("model/connector=qformer", "model.connector.width=90", "model.connector.num_heads=9")
    assert problems(*together) == []
    for alone in together[1:]:
        assert problems(together[0], alone) != []
    [problem] = problems(*together, "optimizer.lr=-1")
    assert problem.startswith("optimizer.lr ")


def test_contradicting_values_are_reported_with_other_problems():
    found = problems("optimizer.warmup_steps=5000", "trainig.steps=9000")
    assert len(found) == 2 and "optimizer.warmup_steps" in found[1]
    assert problems("optimizer.warmup_steps=5000", "training.steps=9000") == []


def test_a_value_that_another_key_sets_is_named_by_the_given_key():
    [problem] = problems("seed=-1")
    assert problem.startswith("seed=-1: training.seed ")


def test_a_missing_value_is_explained_beside_other_problems():
    found = problems("device=gpu", command="convert")
    assert [problem.partition(" ")[0] for problem in found] == ["checkpoint", "output"]
    assert "a folder of save_pretrained" in found[0]


def test_a_wrong_value_of_a_key_that_needs_one_is_one_problem():
    [problem] = problems("checkpoint=a/b", "images=.", "output=captions.json", command="caption")
    assert problem.startswith("output ")


def test_what_a_missing_checkpoint_would_decide_is_no_problem(tmp_path):
    """A checkpoint may hold its backbones, which then may train."""
    found = problems(f"model.init_from={tmp_path}", "model.trainable=[fusion,vision_model]", "training.accumulate=0")
    assert len(found) == 2
    assert found[0].startswith("model.init_from") and found[1].startswith("training.accumulate ")
    [problem] = problems(f"model.init_from={tmp_path}", "model.trainable=[fusion,vision_model]")
    assert problem.startswith("model.init_from")


def test_every_value_of_a_sweep_is_checked():
    right = ("seed=0,1", "training.precision=fp32,bf16", "experiment=demo,synthetic")
    assert problems(*right, is_sweep=True) == []
    found = problems("seed=0,-1,1", "training.precision=fp32,fp8", "experiment=demo,dem", is_sweep=True)
    assert len(found) == 3
    assert "experiment=dem" in found[0] and "fp8" in found[1] + found[2] and "-1" in found[1] + found[2]


@pytest.mark.parametrize("command", ["evaluate", "report", "convert", "search", "word_attention"])
def test_a_sweep_of_a_command_that_does_not_train_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somewhere" / "checkpoint").mkdir(parents=True)
    for file in ("scores.json", "checkpoint/model.safetensors"):
        (tmp_path / "somewhere" / file).touch()
    needed = (*REQUIRED.get(command, ()), *(["task=synthetic_captions"] if command == "evaluate" else []))
    [problem] = problems(*needed, command=command, is_sweep=True)
    assert problem.startswith("-m ") and command in problem
    assert problems(*needed, command=command) == []


@pytest.mark.parametrize(("argument", "is_sweep"), [("sweep=ablations", False), ("seed=0,1", True)])
def test_a_dry_run_of_a_sweep_is_refused(argument, is_sweep):
    [problem] = problems("experiment=demo", argument, "dry_run=true", is_sweep=is_sweep)
    assert problem.startswith("dry_run=true ") and "-m" in problem


def test_an_option_of_the_group_sweep_makes_a_sweep_without_m():
    """It chooses Hydra's mode itself."""
    assert problems("sweep=ablations", "ablation=baseline,no_gate") == []


def test_a_search_without_optuna_names_the_extra(monkeypatch):
    assert problems("experiment=demo", command="search") == []
    monkeypatch.setitem(sys.modules, "optuna", None)
    [problem] = problems("experiment=demo", command="search")
    assert "flamingo[sweeps]" in problem


def test_a_search_is_no_dry_run():
    [problem] = problems("experiment=demo", "dry_run=true", command="search")
    assert problem.startswith("dry_run=true ")


def test_options_of_a_folder_of_ones_own_are_known(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntraining: {steps: 60}\n")
    assert problems("experiment=mine") != []
    assert problems("experiment=mine", "optimizer.warmup_steps=59", config_folder=str(tmp_path)) == []
    [problem] = problems("experiment=mine", "optimizer.warmup_steps=60", config_folder=str(tmp_path))
    assert "training.steps, 60" in problem
