"""Searches for the best values of a training's keys, with Optuna.

python -m experiments.search experiment=demo
python -m experiments.search experiment=demo search.n_trials=24 'search.choices=[{key: seed, values: [0, 1]}]'

A trial is a training run in `OUTPUT/trial-NUMBER`. Its value is the run's `objective`. The proposal of a trial depends
on the sampler's seed and the values of earlier trials alone. A finished run returns its value without training. The
same command therefore resumes a search that was stopped, and a larger `search.n_trials` extends it.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec

from experiments.cli.command import command
from experiments.train import TrainConfig, check_config
from flamingo.utils.checks import finite, flag, one_of, positive, seed, whole
from flamingo.utils.errors import UserError


@dataclass
class IntervalConfig:
    """Any number from ``low`` to ``high``, for one key of the training's config."""

    #: The key of the training's config.
    key: str
    #: The smallest number.
    low: float
    #: The largest number.
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

    #: The key or group of the training's config.
    key: str
    #: The values, as on a command line.
    values: list[str]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError(f"values must not be empty for {self.key}")


@dataclass
class SearchConfig:
    """The search space and the number of trials."""

    #: The numbers to search: a list of {key, low, high, log}.
    intervals: list[IntervalConfig] = field(default_factory=list)
    #: The choices to search: a list of {key, values}.
    choices: list[ChoiceConfig] = field(default_factory=list)
    #: The number of trials.
    n_trials: int = 12
    #: The seed of the sampler, a tree-structured Parzen estimator.
    seed: int = 0
    #: minimize, for a loss; maximize, for a score.
    direction: str = "minimize"

    def __post_init__(self) -> None:
        whole("n_trials", self.n_trials, least=1)
        seed("seed", self.seed)
        one_of("direction", self.direction, ("minimize", "maximize"))


def check_search(config: TrainConfig) -> None:
    """Checks that Optuna is installed, and that the training can be searched.

    Raises:
        UserError: With the extra of the package, or with the key.
    """
    if find_spec("optuna") is None:
        raise UserError("a search needs Optuna: pip install 'flamingo[sweeps]'")
    if config.dry_run:
        raise UserError("dry_run=true shows one run: say it to experiments.train")
    check_config(config)


main = command("search", SearchConfig, "experiments.runs.run_search:run_job", check_search)

if __name__ == "__main__":
    main()
