"""Searches over a training's config values with Optuna.

python -m experiments.search experiment=demo
python -m experiments.search experiment=demo search.n_trials=24 'search.choices=[{key: seed, values: [0, 1]}]'

A trial is a training run in `OUTPUT/trial-NUMBER`. Its value is the run's `objective`. The sampler's seed and the
values of earlier trials decide what a trial tries, and a run that is trained returns its value at once. The same
command therefore continues a search that was stopped, and a larger `search.n_trials` extends it.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from accelerate import PartialState
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from experiments.command import Job, command
from experiments.hydra_config import compose_config, load
from experiments.run_training import run_training
from flamingo.utils.checks import finite, flag, one_of, positive, seed, whole, within
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text

log = logging.getLogger(__name__)


@dataclass
class IntervalConfig:
    """Any number from ``low`` to ``high``, for one key of the training's config."""

    key: str
    low: float
    high: float
    #: Whether the logarithm of the number is sampled uniformly.
    log: bool = False

    def __post_init__(self) -> None:
        check_bound = positive if self.log else finite
        check_bound("low", self.low)
        check_bound("high", self.high)
        flag("log", self.log)
        if self.low >= self.high:
            raise UserError(f"low must be below high, got {self.low} and {self.high} for {self.key}")


@dataclass
class ChoiceConfig:
    """One of some values, for one key or group of the training's config."""

    key: str
    #: As on a command line.
    values: list[str]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError(f"values has none for {self.key}")


@dataclass
class SearchConfig:
    """What is searched, and for how long."""

    intervals: list[IntervalConfig] = field(default_factory=list)
    choices: list[ChoiceConfig] = field(default_factory=list)
    n_trials: int = 12
    #: Of the sampler, a tree-structured Parzen estimator.
    seed: int = 0
    #: minimize, for a loss; maximize, for a score.
    direction: str = "minimize"

    def __post_init__(self) -> None:
        whole("n_trials", self.n_trials, least=1)
        seed("seed", self.seed)
        one_of("direction", self.direction, ("minimize", "maximize"))


#: The values of a trial by key. Choices are texts, as on a command line.
Params = dict[str, float | str]


def search(
    config: SearchConfig, run: Callable[[int, Params], float | None], record: Callable[[optuna.Study], None]
) -> optuna.Study:
    """Returns the study after ``config.n_trials`` trials.

    Args:
        config: The space and the sampler.
        run: Number and params of a trial -> its value; None for a trial that failed.
        record: Called with the study after each trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {}
    for interval in config.intervals:
        space[interval.key] = FloatDistribution(interval.low, interval.high, log=interval.log)
    for choice in config.choices:
        space[choice.key] = CategoricalDistribution(choice.values)
    if not space:
        raise UserError("search.intervals and search.choices are both empty: there is nothing to search")
    sampler = optuna.samplers.TPESampler(seed=config.seed)
    study = optuna.create_study(sampler=sampler, direction=StudyDirection[config.direction.upper()])
    for _ in range(config.n_trials):
        trial = study.ask(space)
        value = run(trial.number, trial.params)
        if value is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, value)
        record(study)
    return study


def run_trial(arguments: list[str], params: Params, folder: Path) -> float | None:
    """Returns the objective of a training run; None if the training fails, for example by a loss that is not finite.

    Args:
        arguments: The overrides of the command line.
        params: The overrides of the trial.
        folder: Of the run.

    Raises:
        UserError: For an error of the config or of the folder, which all trials have.
    """
    overrides = arguments + [f"{key}={value}" for key, value in params.items()]
    config = load(compose_config("search", overrides))
    train_overrides = [override for override in overrides if not override.startswith("search.")]
    try:
        return run_training(config, folder, train_overrides)
    except UserError as error:
        # A run that has not begun leaves no config. A folder with the run of another config has no failure.
        has_failed = (folder / "config.yaml").exists() and (folder / "failure.txt").exists()
        if not has_failed:
            raise
        log.warning("%s failed: %s", folder, error)
        return None


def write_trials(output: Path, study: optuna.Study) -> None:
    """Write ``trials.json``: the number, params and value of each trial. The value is null if the trial failed."""
    rows = [{"trial": trial.number, "params": trial.params, "value": trial.value} for trial in study.trials]
    last = study.trials[-1]
    log.info("trial %d: %s -> %s", last.number, last.params, last.value)
    if PartialState().is_main_process:
        write_text(output / "trials.json", json.dumps(rows, indent=1) + "\n")


@command("search", SearchConfig)
def main(job: Job[SearchConfig]) -> None:
    with within("search"):
        config: SearchConfig = load(compose_config("search", job.overrides).search)
    study = search(
        config,
        lambda number, params: run_trial(job.overrides, params, job.output / f"trial-{number}"),
        lambda study: write_trials(job.output, study),
    )
    if all(trial.state == TrialState.FAIL for trial in study.trials):
        raise UserError(f"every trial of {job.output} failed: see the failure.txt of each")
    log.info("best: %s -> %s", study.best_params, study.best_value)


if __name__ == "__main__":
    main()
