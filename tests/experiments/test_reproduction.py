"""Published figures beside ours, and dry runs of all layouts of published checkpoints."""

import pytest

from experiments.cli.hydra_config import compose_config, load
from experiments.runs.run_reproduction import run_reproduction
from experiments.setup.reproduction_arguments import reproduction_arguments
from flamingo.evaluation.published import FILE, figures_table, own_value, protocol_of, published_figures
from flamingo.results import Score, SettingOfTask, read_scores
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config

OF_3B, OF_4B, OF_9B = (
    f"openflamingo/OpenFlamingo-{name}" for name in ("3B-vitl-mpt1b", "4B-vitl-rpj3b", "9B-vitl-mpt7b")
)
IDEFICS_9B = "HuggingFaceM4/idefics-9b"


def score(value, shots=4, demonstrations="random", control=None, metric="CIDEr", seed=0):
    setting = SettingOfTask("coco", shots, demonstrations, None, control, None, "beam3")
    return Score(setting, (seed,), metric, value, None, 10, "en")


def four_shots(demonstrations):
    """The figure of OpenFlamingo-3B on COCO at 4 shots."""
    figures = published_figures(OF_3B, "coco")
    return next(one for one in figures if (one.shots, one.demonstrations) == (4, demonstrations))


def test_figures_are_those_of_the_sources():
    figures = published_figures(OF_3B, "coco")
    random = [figure.value for figure in figures if figure.demonstrations == "random"]
    assert random == [74.9, 77.3, 85.9, 89.8, 93.0]
    assert [(figure.shots, figure.value) for figure in figures[5:]] == [(4, 91.3), (8, 97.4), (16, 102.2), (32, 105.5)]
    assert (figures[1].metric, figures[1].tolerance) == ("CIDEr", 1.5)
    assert "table 11" in figures[0].source and "table 12" in figures[5].source
    four = [figure for figure in published_figures(OF_9B, "hateful_memes") if figure.shots == 4]
    assert [(figure.value, figure.metric) for figure in four] == [(54.0, "roc_auc"), (70.1, "roc_auc")]
    assert [figure.value for figure in published_figures(IDEFICS_9B, "vqav2")] == [50.9, 55.4, 56.4, 57.0, 57.9]
    assert protocol_of(OF_4B) == "openflamingo" and protocol_of(IDEFICS_9B) == "idefics"


def test_each_figure_has_a_metric_a_tolerance_and_a_source():
    content = read_config(FILE)
    used = set()
    for model, entry in content["models"].items():
        tasks = {task for of_source in entry["figures"].values() for task in of_source}
        for task in tasks:
            figures = published_figures(model, task)
            numbers = [(figure.demonstrations, figure.shots) for figure in figures]
            assert len(set(numbers)) == len(numbers)  # no figure has two values
            assert all(figure.tolerance > 0 and 0 < figure.value < 150 for figure in figures)
        used |= entry["figures"].keys()
    assert used == content["sources"].keys() and set(content["rices"]) <= used


def test_models_and_tasks_without_figures_are_named():
    with pytest.raises(UserError, match="published=gpt"):
        protocol_of("gpt")
    with pytest.raises(UserError, match=r"task\.name=flickr8k.*coco, flickr30k.*vqav2"):
        published_figures(OF_3B, "flickr8k")


def test_our_value_is_the_mean_over_seeds_of_the_plain_setting():
    figure = four_shots("random")
    others = [score(9, shots=8), score(9, control="blind"), score(0.9, demonstrations="rices")]
    others += [score(9, metric="BLEU-1"), score(9, demonstrations="rices_sum")]
    assert own_value(figure, others) is None
    assert own_value(four_shots("rices"), [*others, score(0.7)]) == 90
    assert own_value(figure, [*others, score(0.75), score(0.77, seed=1)]) == pytest.approx(76)
    zero = published_figures(OF_9B, "coco")[0]
    assert own_value(zero, [score(0.1, 0, None), score(0.8, 0, "text_only")]) == pytest.approx(80)


def test_the_table_has_differences_and_tolerances():
    figures = [four_shots("random"), four_shots("rices")]
    table = figures_table(figures, [score(0.765)]).split("\n")
    assert table[1].split() == ["4", "random", "CIDEr", "77.3", "76.5", "-0.8", "1.5", "reproduced"]
    assert table[2].split() == ["4", "rices", "CIDEr", "91.3", "-", "-", "1.5"]
    assert figures_table(figures, [score(0.7)]).split("\n")[1].split()[-1] == "differs"


def test_arguments_follow_from_the_model_and_given_ones_stay():
    assert reproduction_arguments({"published": IDEFICS_9B, "controls": ["blind"]}) == [
        "protocol=idefics",
        "output=outputs/reproduce/idefics-9b",
    ]
    dry = reproduction_arguments({"published": OF_3B, "task": "vqav2", "dry_run": True, "output": "x"})
    assert {"checkpoint=x/checkpoint", "protocol=openflamingo"} < set(dry)
    assert "task.query=x/data/v2_OpenEnded_mscoco_val2014_questions.json" in dry
    others = {"published": OF_3B, "task": "textvqa", "dry_run": True}
    with pytest.raises(UserError, match=r"dry_run=true.*coco.*textvqa.*task\.query"):
        reproduction_arguments(others)
    assert "checkpoint=x/checkpoint" in reproduction_arguments(others | {"task.query": "FILE", "output": "x"})


@pytest.mark.full
@pytest.mark.parametrize("task", ["coco", "vqav2"])
@pytest.mark.parametrize("model", [OF_3B, OF_4B, OF_9B, IDEFICS_9B])
def test_dry_runs_evaluate_a_checkpoint_of_the_layout(model, task, tmp_path, caplog):
    caplog.set_level("INFO")
    overrides = [f"published={model}", f"task={task}", "dry_run=true", f"output={tmp_path / 'run'}"]
    given = {"published": model, "task": task, "dry_run": True, "output": str(tmp_path / "run")}
    added = [f"{key}={value}" for key, value in (one.split("=", 1) for one in reproduction_arguments(given))]
    overrides += [*added, "limit=2", "attention_queries=0", "device=cpu"]
    run_reproduction(load(compose_config("reproduce", overrides), overrides))
    scores = read_scores(tmp_path / "run" / "scores.json")
    assert {one.setting.task for one in scores} == {task}
    figures = [figure for figure in published_figures(model, task) if figure.demonstrations == "random"]
    assert [figure.shots for figure in figures] == [0, 4, 8, 16, 32]
    for figure in figures:
        assert own_value(figure, scores) is not None
        assert f"{figure.value:.1f}" in caplog.text
    assert "protocol" in caplog.text
