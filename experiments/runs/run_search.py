"""A search with Optuna whose trials are training runs."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import optuna
from accelerate import PartialState
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from experiments.cli.command import Job
from experiments.cli.hydra_config import compose_config, load
from experiments.runs.run_training import run_training
from experiments.search import SearchConfig
from flamingo.utils.checks import within
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text

log = logging.getLogger(__name__)


#: The values of a trial by key. Choices are texts as on a command line.
Params = dict[str, float | str]


def search(
    config: SearchConfig, run: Callable[[int, Params], float | None], record: Callable[[optuna.Study], None]
) -> optuna.Study:
    """Returns the study after ``config.n_trials`` trials.

    Args:
        config: The space and the sampler.
        run: (number, params) of a trial -> its value; None for a failed trial.
        record: Called with the study after each trial.

    Raises:
        UserError: For an empty search space.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {}
    for interval in config.intervals:
        space[interval.key] = FloatDistribution(interval.low, interval.high, log=interval.log)
    for choice in config.choices:
        space[choice.key] = CategoricalDistribution(choice.values)
    if not space:
        raise UserError("search.intervals and search.choices are both empty")
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
    """Returns the objective of a training run; None if the training fails, such as by an infinite loss.

    Args:
        arguments: The overrides of the command line.
        params: The overrides of the trial.
        folder: The folder of the run.

    Raises:
        UserError: For an error in the config or the folder, which all trials would have.
    """
    overrides = arguments + [f"{key}={value}" for key, value in params.items()]
    config = load(compose_config("search", overrides), overrides)
    train_overrides = [override for override in overrides if not override.startswith("search.")]
    try:
        return run_training(config, folder, train_overrides)
    except UserError as error:
        # A run that did not start writes no config. A folder with a run of another config gets no failure.txt.
        has_failed = (folder / "config.yaml").exists() and (folder / "failure.txt").exists()
        if not has_failed:
            raise
        log.warning("%s failed: %s", folder, error)
        return None


def write_trials(output: Path, study: optuna.Study) -> None:
    """Writes ``trials.json`` with the number, params and value of each trial. The value of a failed trial is null."""
    rows = [{"trial": trial.number, "params": trial.params, "value": trial.value} for trial in study.trials]
    last = study.trials[-1]
    log.info("trial %d: %s -> %s", last.number, last.params, last.value)
    if PartialState().is_main_process:
        write_text(output / "trials.json", json.dumps(rows, indent=1) + "\n")


def run_job(job: Job[SearchConfig]) -> None:
    """Runs the command.

    Raises:
        UserError: If all trials fail.
    """
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
