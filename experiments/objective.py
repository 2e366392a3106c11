"""What a search goes by: the value that a training run returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.evaluate import Plan
from flamingo.evaluation.settings import Setting, prompt_examples
from flamingo.report.averages import mean_over_seeds
from flamingo.results import read_history, read_scores
from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError


@dataclass
class ObjectiveConfig:
    """A score of the run's evaluations with plain demonstrations; or, where `task` is null, the loss at the end."""

    task: str | None = None
    shots: int = 0
    metric: str = "exact_match"

    def __post_init__(self) -> None:
        whole("shots", self.shots, least=0)
        for key, unset in (("shots", 0), ("metric", "exact_match")):
            if self.task is None and getattr(self, key) != unset:
                raise UserError(f"{key} is {getattr(self, key)}, but without task=NAME the objective is the loss")


def check_objective(config: dict[str, Any], plans: Sequence[Plan]) -> None:
    """Raise UserError for a score that none of the planned evaluations gives."""
    if config["task"] is None:
        return
    own = [plan for plan in plans if plan.task.name == config["task"]]
    if not own:
        known = ", ".join(plan.task.name for plan in plans) or "no task"
        raise UserError(f"objective.task={config['task']} is not evaluated: `evaluate` has {known}")
    plain = [(plan, setting) for plan in own for setting in plan.settings if _is_plain(setting)]
    metrics = [_metrics(plan, setting) for plan, setting in plain if setting.shots == config["shots"]]
    if not metrics:
        raise UserError(
            f"objective.shots={config['shots']} is not among the shots that {config['task']} is asked with, with no "
            "control and random demonstrations"
        )
    given = set().union(*metrics)
    if config["metric"] not in given:
        known = ", ".join(sorted(given))
        raise UserError(
            f"objective.metric={config['metric']} is not among the metrics of {config['task']} at {config['shots']} "
            f"shots: {known}"
        )


def _is_plain(setting: Setting) -> bool:
    return setting.control is None and setting.demonstrations in (None, "random")


def _metrics(plan: Plan, setting: Setting) -> set[str]:
    """The metrics that right answers have in a setting."""
    task, limit, orders = plan.task, plan.config["limit"], plan.config["num_orders"]
    metrics = set(task.corpus_metrics)
    for query in task.queries()[:limit]:
        examples = prompt_examples(task, query, setting)
        metrics |= task.score(query, examples, query.references[0]).keys()
    if orders > 1 and setting.shots > 1:
        metrics |= {f"{metric}_order_std" for metric in metrics}
    return metrics


def objective(run: Path, config: dict[str, Any]) -> float:
    """The score, or the mean loss (nats) over the last tenth of the records of ``history.jsonl``.

    The synthetic benchmark's documents never come twice, so that there the loss is one of unseen documents. Raises
    ValueError, naming the file, where the score is not there.
    """
    if config["task"] is None:
        losses = [record["loss"] for record in read_history(run / "history.jsonl")]
        return fmean(losses[-max(1, len(losses) // 10) :])
    wanted = (config["task"], config["shots"], config["metric"])
    for score in mean_over_seeds(read_scores(run / "scores.json")):
        if (score.setting.task, score.setting.shots, score.metric) == wanted and not score.setting.series:
            return score.value
    raise UserError(f"{run / 'scores.json'} has no {wanted[2]} of {wanted[0]} at {wanted[1]} shots: see `evaluate`")
