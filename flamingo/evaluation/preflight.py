"""What can be known to fail before the first prediction: settings that a task cannot give, and prompts too long."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from flamingo.data.document import Document
from flamingo.evaluation.demonstrations import document, shots_per_group
from flamingo.evaluation.metrics.captions import check_metrics
from flamingo.evaluation.protocol import RetrievalTask, Task
from flamingo.evaluation.settings import TEXT_ONLY_DEMONSTRATIONS, Setting, prompt_examples
from flamingo.utils.errors import UserError


def check_settings(task: Task, settings: Sequence[Setting], limit: int | None = None) -> None:
    """Raise UserError unless the task can be asked and scored in all settings.

    Args:
        task: The task.
        settings: All settings that are going to be asked.
        limit: The number of queries that are asked, the first ones; None: all.
    """
    _check_unique(task, "setting", map(str, settings))
    queries = task.queries()
    _check_unique(task, "query", (query.id for query in queries))
    check_metrics(task.corpus_metrics)
    for setting in settings:
        if setting.demonstrations == "text_only" and not task.text_only:
            raise UserError(f"{task.name} has no 0-shot variant with text-only demonstrations")
        if setting.demonstrations == "rices" and not isinstance(task, RetrievalTask):
            raise UserError(f"{task.name} has no similar demonstrations: only random ones")
    drawn = [setting for setting in settings if setting.demonstrations in ("random", "text_only")]
    for shots in {_drawn_shots(setting) for setting in drawn}:
        for query in queries[:limit]:
            shots_per_group(task, query, task.support(query), shots)


def check_prompts(
    task: Task, settings: Sequence[Setting], check: Callable[[Document], object], limit: int | None = None
) -> None:
    """Call ``check`` on the longest prompts of all settings, for all queries.

    The demonstrations of fewer shots are among those of more, with the same captions, so a longer prompt of the same
    kind stands for all shorter ones. Raises UserError where a task has no caption for a control, and what ``check``
    raises.
    """
    longest: dict[tuple[object, ...], Setting] = {}
    for setting in settings:
        if setting.control == "copied_caption":  # without a prompt
            continue
        other_captions = setting.control == "shuffled_captions"
        kind = (setting.demonstrations, other_captions, setting.seed)
        if kind not in longest or longest[kind].shots < setting.shots:
            longest[kind] = setting
    for setting in longest.values():
        for query in task.queries()[:limit]:
            examples = prompt_examples(task, query, setting)
            check(document(query, examples, setting.demonstrations != "text_only"))


def _drawn_shots(setting: Setting) -> int:
    return TEXT_ONLY_DEMONSTRATIONS if setting.demonstrations == "text_only" else setting.shots


def _check_unique(task: Task, what: str, names: Iterable[str]) -> None:
    counts = Counter(names)
    if not counts:
        raise UserError(f"{task.name}: there is no {what} to evaluate")
    name, times = counts.most_common(1)[0]
    if times > 1:
        raise UserError(f"{task.name}: the {what} {name} is there {times} times")
