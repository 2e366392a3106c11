"""The objective of a search: a score of a run's evaluations, or its loss at the end."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from flamingo.evaluation import EvaluationConfig, ObjectiveConfig
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.selection import RANDOM
from flamingo.evaluation.settings import Setting, make_settings
from flamingo.history import read_history
from flamingo.results import SettingOfTask, read_scores
from flamingo.utils.errors import UserError


def check_objective(config: ObjectiveConfig, evaluations: Sequence[tuple[Task, EvaluationConfig]]) -> None:
    """Checks that the evaluations give the score of the objective.

    Args:
        config: The objective.
        evaluations: The task and the config of each evaluation that follows the training.

    Raises:
        UserError: If they do not.
    """
    if config.task is None:
        return
    matching = [(task, evaluation) for task, evaluation in evaluations if task.name == config.task]
    if not matching:
        known = ", ".join(task.name for task, _ in evaluations) or "no task"
        raise UserError(f"objective.task={config.task} is not evaluated: `evaluate` has {known}")
    metrics = []
    for task, evaluation in matching:
        for setting in make_settings(evaluation, task):
            if _is_plain(setting) and setting.shots == config.shots:
                metrics.append(_metrics(task, evaluation, setting))
    if not metrics:
        raise UserError(
            f"objective.shots={config.shots} is not among the shots that {config.task} is evaluated with, without "
            "control and with random demonstrations of its own support"
        )
    available = set().union(*metrics)
    if config.metric not in available:
        known = ", ".join(sorted(available))
        raise UserError(
            f"objective.metric={config.metric} is not among the metrics of {config.task} at {config.shots} shots: "
            f"{known}"
        )


def _is_plain(setting: Setting | SettingOfTask) -> bool:
    return setting.control is None and setting.support is None and setting.demonstrations in (None, RANDOM)


def _metrics(task: Task, evaluation: EvaluationConfig, setting: Setting) -> set[str]:
    """Returns the metrics that right answers have in a setting."""
    metrics = set(task.corpus_metrics)
    for query in task.queries()[: evaluation.limit]:
        examples = prompt_examples(task, query, setting)
        metrics |= task.score(query, examples, query.references[0]).keys()
    if evaluation.num_orders > 1 and setting.shots > 1:
        metrics |= {f"{metric}_order_std" for metric in metrics}
    return metrics


def objective(run: Path, config: ObjectiveConfig) -> float:
    """Returns the score, or the mean loss (nats) of the last tenth of the records of ``history.jsonl``.

    Synthetic documents never repeat, so that this is the loss on unseen documents.

    Raises:
        UserError: If the score is missing; the error names the file.
    """
    if config.task is None:
        losses = [record["loss"] for record in read_history(run / "history.jsonl")]
        return fmean(losses[-max(1, len(losses) // 10) :])
    values = []
    for score in read_scores(run / "scores.json"):
        setting = score.setting
        named = (setting.task, setting.shots, score.metric)
        if named == (config.task, config.shots, config.metric) and _is_plain(setting):
            values.append(score.value)
    if values:  # one per seed
        return fmean(values)
    raise UserError(
        f"{run / 'scores.json'} has no {config.metric} of {config.task} at {config.shots} shots: see `evaluate`"
    )
