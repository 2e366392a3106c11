"""Checks before the first prediction: settings that a task does not support."""

from collections import Counter
from collections.abc import Iterable, Sequence

from flamingo.evaluation.demonstrations import check_retrieval, check_shots
from flamingo.evaluation.metrics.corpus import check_metrics
from flamingo.evaluation.protocol import (
    CaptionTask,
    DescribedTask,
    NearestTask,
    RankingTask,
    Task,
    with_support,
)
from flamingo.evaluation.settings import Setting
from flamingo.utils.errors import UserError

#: The protocol of a control -> what other tasks lack.
_LACKING: dict[type, str] = {
    DescribedTask: "no descriptions of images",
    NearestTask: "no similarity of images",
    CaptionTask: "no captions to compare",
}


def check_protocols(task: Task, settings: Sequence[Setting]) -> None:
    """Checks that the task has the methods that demonstrations and controls need.

    Raises:
        UserError: If it has not.
    """
    for setting in settings:
        own_task = with_support(task, setting.support)
        check_retrieval(own_task, setting)
        if isinstance(task, RankingTask) and (setting.num_beams > 1 or setting.temperature is not None):
            raise UserError(f"{task.name} ranks candidates: it needs num_beams=[1] and no temperature")
        protocol = setting.change.protocol
        if protocol is not None and not isinstance(own_task, protocol):
            raise UserError(f"{own_task.name} has {_LACKING[protocol]}: remove {setting.control} from controls")


def check_settings(task: Task, settings: Sequence[Setting], limit: int | None = None) -> None:
    """Checks that the task can be evaluated and scored in all settings.

    Args:
        task: The task.
        settings: All settings of the evaluation.
        limit: The number of queries from the beginning; None: all.

    Raises:
        UserError: If it cannot.
    """
    _check_unique(task, "setting", [str(setting) for setting in settings])
    queries = task.queries()
    _check_unique(task, "query", [query.id for query in queries])
    check_metrics(task.corpus_metrics)
    check_protocols(task, settings)
    for setting in settings:
        if setting.selection is None:
            continue
        own_task = with_support(task, setting.support)
        if not own_task.support(queries[0]):
            raise UserError(
                f"task.support has no value: {own_task.name} needs it for {setting}; shots=[0] needs no demonstrations"
            )
        if not setting.selection.images and not task.text_only:
            raise UserError(f"{task.name} has no 0-shot variant with text-only demonstrations")
    sampled = [setting for setting in settings if setting.num_demonstrations > 0 and not setting.is_retrieved]
    numbers = dict.fromkeys((setting.support, setting.num_demonstrations) for setting in sampled)
    for support, shots in sorted(numbers, key=lambda number: number[1], reverse=True):
        own_task = with_support(task, support)
        for query in queries[:limit]:
            check_shots(own_task, query, shots)


def _check_unique(task: Task, what: str, names: Iterable[str]) -> None:
    counts = Counter(names)
    if not counts:
        raise UserError(f"{task.name}: there is no {what} to evaluate")
    name, times = counts.most_common(1)[0]
    if times > 1:
        raise UserError(f"{task.name}: the {what} {name} is there {times} times")
