"""A search: its proposals, a search that is stopped and continued, trials that fail, and runs that are finished."""

import json
import math

import pytest
from hydra.errors import ConfigCompositionException

from experiments.cli.hydra_config import compose_config
from experiments.runs.run_search import run_trial, search, write_trials
from experiments.search import ChoiceConfig, IntervalConfig, SearchConfig
from flamingo.utils.errors import UserError
from tests.helpers.small_runs import TWO_STEPS, files_of

CONFIG = SearchConfig(
    intervals=[
        IntervalConfig("optimizer.lr", 1e-4, 1e-2, log=True),
        IntervalConfig("optimizer.max_grad_norm", 0.5, 2.0),
    ],
    choices=[ChoiceConfig("model.connector.num_latents", ["4", "16", "64"])],
)


def cost(params):
    """Is least at 1e-3, 1.0 and 16."""
    distance = abs(math.log10(params["optimizer.lr"]) + 3) + abs(params["optimizer.max_grad_norm"] - 1)
    return distance + (params["model.connector.num_latents"] != "16")


def run_search(config, run=lambda number, params: cost(params)):
    return [(trial.params, trial.value) for trial in search(config, run, lambda study: None).trials]


def test_a_search_stopped_after_5_of_12_trials_ends_the_same():
    uninterrupted = run_search(CONFIG)
    assert len(uninterrupted) == 12
    finished = {}

    def run(number, params):
        """Trains what is not finished, at most 5 runs."""
        if number not in finished and len(finished) == 5:
            raise KeyboardInterrupt
        return finished.setdefault(number, cost(params))

    with pytest.raises(KeyboardInterrupt):
        run_search(CONFIG, run)
    assert list(finished) == [0, 1, 2, 3, 4]
    trained = []

    def resume(number, params):
        if number not in finished:
            trained.append(number)
        return finished.setdefault(number, cost(params))

    assert run_search(CONFIG, resume) == uninterrupted
    assert trained == [5, 6, 7, 8, 9, 10, 11]


def test_more_trials_extend_a_search_and_another_seed_differs():
    twelve = run_search(CONFIG)
    longer = SearchConfig(CONFIG.intervals, CONFIG.choices, n_trials=20)
    assert run_search(longer)[:12] == twelve
    assert run_search(SearchConfig(CONFIG.intervals, CONFIG.choices, seed=1)) != twelve


def test_earlier_values_and_the_direction_decide_proposals():
    twenty = SearchConfig(CONFIG.intervals, CONFIG.choices, n_trials=20)
    maximizing = SearchConfig(CONFIG.intervals, CONFIG.choices, n_trials=20, direction="maximize")
    low, high = run_search(twenty), run_search(maximizing)
    assert low[:10] == high[:10], "the sampler's first ten trials are random"
    assert sum(value for _, value in low[10:]) < sum(value for _, value in high[10:])


def test_a_failed_trial_has_no_value_and_the_search_continues(tmp_path):
    study = search(
        CONFIG,
        lambda number, params: None if number == 1 else cost(params),
        lambda study: write_trials(tmp_path, study),
    )
    rows = json.loads((tmp_path / "trials.json").read_text())
    assert [row["trial"] for row in rows] == list(range(12))
    assert [row["trial"] for row in rows if row["value"] is None] == [1]
    assert rows[3] == {"trial": 3, "params": study.trials[3].params, "value": cost(study.trials[3].params)}


def test_a_finished_run_returns_its_value_and_stays_as_it_is(tmp_path):
    arguments, params = [*TWO_STEPS, "search.n_trials=2"], {"optimizer.lr": 2e-3, "model.connector.num_latents": "4"}
    value = run_trial(arguments, params, tmp_path)
    before = files_of(tmp_path)
    assert run_trial(arguments, params, tmp_path) == value
    assert files_of(tmp_path) == before
    with pytest.raises(UserError, match=r"training\.accumulate"):
        run_trial([*arguments, "training.accumulate=3"], params, tmp_path)
    overrides = (tmp_path / "overrides.yaml").read_text()
    assert "optimizer.lr=0.002" in overrides and "search.n_trials" not in overrides


@pytest.mark.full
def test_diverged_trials_fail_and_wrong_values_end_the_search(tmp_path):
    diverging = {"optimizer.lr": 1e30, "optimizer.gate_lr": 1e30}
    for _ in range(2):
        assert run_trial([*TWO_STEPS, "training.steps=3"], diverging, tmp_path / "a") is None
    assert "not finite" in (tmp_path / "a" / "failure.txt").read_text()
    with pytest.raises(UserError, match="warmup"):
        run_trial(list(TWO_STEPS), {"optimizer.warmup_steps": 9}, tmp_path / "b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntervalConfig("a", 1.0, 1.0), "low .* a"),
        (lambda: IntervalConfig("a", 0.0, 1.0, log=True), "low"),
        (lambda: ChoiceConfig("a", []), "values .* a"),
        (lambda: SearchConfig(n_trials=0), "n_trials"),
        (lambda: SearchConfig(direction="up"), "direction"),
        (lambda: run_search(SearchConfig()), r"search\.intervals"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_misspelt_key_of_the_search_is_refused():
    with pytest.raises(ConfigCompositionException, match="trials"):
        compose_config("search", ["search.trials=3"])
