"""The demo's three commands with tiny sizes: training, evaluation, report, and repeated calls."""

import json

import pytest

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.report.page import write_report
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed
from tests.helpers.small_runs import SMALL_DEMO

SMALL_EVALUATION = ("task.num_queries=4", "shots=[0,2]", "seeds=[0,1]", "batch_size=4")


def evaluation(run, *overrides):
    return composed("evaluate", f"run={run}", *SMALL_EVALUATION, *overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "demo"
    run_training(composed("train", *SMALL_DEMO, f"output={output}"), output)
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
    # The consensus needs 3 demonstrations.
    controls = ("blind", "shuffled_images", "shuffled_captions", "copied_caption", "described")
    assert set(settings) == {
        (0, None, None, 0),
        *((0, "text_only", None, seed) for seed in (0, 1)),
        *((2, "random", None, seed) for seed in (0, 1)),
        *((2, "random", control, seed) for control in controls for seed in (0, 1)),
    }


def test_described_demonstrations_have_words_in_place_of_images(run):
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    prompts = {(row["control"], row["seed"], row["query"]): row["prompt"] for row in rows if row["shots"] == 2}
    described = {key: prompt for key, prompt in prompts.items() if key[0] == "described"}
    assert len(described) == 8
    for (_, *key), prompt in described.items():
        *lines, last = prompt.split("\n")
        assert last == "<|endofchunk|><image>Output:"
        texts = [f"<image>Output: {line.split(' Output: ')[1]}<|endofchunk|>" for line in lines]
        assert prompts[None, *key] == "".join(texts) + "<image>Output:"


@pytest.mark.full
def test_a_checkpoint_is_evaluated_wherever_it_lies(run, tmp_path):
    checkpoint = ("run=null", f"checkpoint={run / 'checkpoint'}", *SMALL_EVALUATION)
    run_evaluation(composed("evaluate", *checkpoint, f"output={tmp_path / 'there'}"))
    for file in ("scores.json", "predictions.jsonl"):
        assert (tmp_path / "there" / file).read_bytes() == (run / file).read_bytes()
    with pytest.raises(UserError, match=r"set run=FOLDER, or checkpoint=FOLDER and output=FOLDER"):
        run_evaluation(composed("evaluate", *checkpoint))


def test_a_second_run_over_the_same_folder_changes_nothing(run):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    run_training(composed("train", *SMALL_DEMO, f"output={run}"), run)
    run_evaluation(evaluation(run))
    write_report(run)
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_another_config_in_the_same_folder_is_refused(run):
    with pytest.raises(UserError, match=r"optimizer\.lr.*0\.001.*0\.5.*overwrite=true"):
        run_training(composed("train", *SMALL_DEMO, f"output={run}", "optimizer.lr=0.5"), run)
    with pytest.raises(UserError, match=r"task\.num_queries.*4.*5"):
        run_evaluation(evaluation(run, "task.num_queries=5"))


def test_settings_are_added_to_those_that_are_there(run, tmp_path):
    before = (run / "predictions.jsonl").read_text()
    run_evaluation(evaluation(run, "shots=[0,1,2]", "seeds=[0]"))
    after = (run / "predictions.jsonl").read_text()
    assert after.startswith(before)
    assert {json.loads(line)["shots"] for line in after.removeprefix(before).splitlines()} == {1}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


#: Mistakes of an evaluation, and what the error names.
WRONG_EVALUATIONS = [
    (["shots=[0,2,64]"], "64"),  # more than the 32 candidates
    (["shots=[0,32]"], "456 tokens"),  # a prompt longer than the context
    (["task=synthetic_binding", "task.num_queries=2", "shots=[3]"], "3 shots .* 2 groups"),
    (["demonstrations=[rices]"], "synthetic_captions"),
    (["shots=[0,0]"], "0 shots"),
    (["shots=[]", "controls=[]", "text_only=false"], "setting"),
    (["task.num_queries=0"], r"task\.num_queries"),
    (["shots=[-1]"], "shots"),
    (["controls=[blindfold]"], "controls.*'blindfold'"),
]


@pytest.mark.parametrize(("overrides", "named"), WRONG_EVALUATIONS, ids=lambda value: str(value))
def test_an_evaluation_error_comes_before_results_are_touched(run, overrides, named):
    before = contents(run)
    with pytest.raises(UserError, match=named):
        run_evaluation(evaluation(run, *overrides, "overwrite=true"))
    assert contents(run) == before


CAPTIONS = {"kind": "synthetic_captions", "task": {"num_queries": 4}}
BINDING = {"kind": "synthetic_binding", "task": {"num_queries": 2}}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (CAPTIONS | {"shots": [0, 2, 64]}, "64"),
        (CAPTIONS | {"shots": [0, 32]}, "456 tokens"),
        (BINDING | {"shots": [3]}, "3 shots .* 2 groups"),
        (CAPTIONS | {"demonstrations": ["rices"]}, "synthetic_captions"),
    ],
    ids=["more shots than candidates", "a prompt longer than the context", "3 shots of 2 groups", "rices"],
)
def test_an_evaluation_error_comes_before_its_training(tmp_path, entry, named):
    config = composed("train", *SMALL_DEMO)
    config.evaluate = [CAPTIONS, entry]
    with pytest.raises(UserError, match=named):
        run_training(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["failure.txt"]


@pytest.mark.full
def test_contradicting_evaluations_are_found_before_training(run, tmp_path):
    config = composed("train", *SMALL_DEMO)
    config.evaluate = [CAPTIONS, CAPTIONS | {"task": {"num_queries": 5}}]
    with pytest.raises(UserError, match=r"synthetic_captions.*task\.num_queries.*4.*5"):
        run_training(config, tmp_path / "run")
    # The folder has results of 4 queries.
    config.evaluate = [CAPTIONS | {"task": {"num_queries": 5}, "output": str(run)}]
    with pytest.raises(UserError, match=rf"{run}.*task\.num_queries.*4.*5"):
        run_training(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["failure.txt"]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer.lr=-1"], r"optimizer\.lr"),
        (["optimizer.warmup_steps=4"], r"optimizer\.warmup_steps"),
        (["optimizer.lr=nan"], r"optimizer\.lr"),
        (["data.documents.captions.kind=caption"], r"data\.documents\.captions\.kind"),
        (["data.documents.captions.max_images=1"], r"data\.documents\.captions\.max_images"),
        (
            ["data.documents.captions.min_images=30", "data.documents.captions.max_images=40"],
            "742 tokens",
        ),
        (["model.trainable=[]"], "trains"),
        (["model.trainable=[vision_models]"], r"model\.trainable"),
        (["model.fusion.every=9", "model.fusion.offset=8"], r"fusion\.every=9"),
        (["model.fusion.offset=1", "model.fusion.every=1"], r"model\.fusion\.offset"),
        (["model.language=nowhere/at/all"], r"model\.language.*nowhere/at/all"),
        (["model.vision=NONSENSE"], r"model\.vision.*nonsense"),  # a folder with a config of an unknown model type
        (["+data.documents.captions.num_crops=2"], r"data\.documents\.captions\.num_crops.*text_prefix_prob"),
        (["model.init_from=nowhere/at/all"], r"model\.init_from"),
        (["dtype=fp16"], "dtype"),
        (["wandb.mode=of"], r"wandb\.mode"),
        (["tracker=weights"], "tracker"),
    ],
    ids=lambda value: str(value),
)
def test_a_mistake_is_found_before_the_finished_run_is_removed(run, tmp_path, overrides, named):
    before = contents(run)
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    overrides = [override.replace("NONSENSE", str(tmp_path)) for override in overrides]
    with pytest.raises(UserError, match=named):
        run_training(composed("train", *SMALL_DEMO, f"output={run}", "overwrite=true", *overrides), run)
    assert contents(run) == before


def test_a_checkpoint_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere"):
        run_evaluation(evaluation(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
