"""Checks before the first prediction that all prompts fit: which numbers of shots do not, and what to set."""

import logging
from collections.abc import Callable, Sequence

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document
from flamingo.data.shortening import TooManyTokensError
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.prompts import build_prompt
from flamingo.evaluation.protocol import Example, Task, with_support
from flamingo.evaluation.settings import Setting
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

#: Encodes a prompt. Raises TooManyTokensError for one that leaves no room to answer.
Check = Callable[[Document], object]


def check_prompts(
    task: Task,
    settings: Sequence[Setting],
    check: Check,
    limit: int | None = None,
    template: CaptionTemplate | None = None,
) -> None:
    """Builds the longest prompts of all settings, for all queries.

    Fewer shots are a subset of more shots, with the same captions, so the longest prompt of a kind stands for all
    shorter ones.

    Args:
        task: The task.
        settings: The settings.
        check: Encodes a prompt.
        limit: The number of queries, the first ones; None: all.
        template: The template of captions of settings without one; None: the default one.

    Raises:
        UserError: With the numbers of shots whose prompts are too long, and those that fit; and where a task has no
            caption for a control.
    """
    queries = task.queries()[:limit]

    def error_of(setting: Setting) -> TooManyTokensError | None:
        own_template = setting.caption_template(template or CaptionTemplate())
        try:
            for query in queries:
                demonstrations = prompt_examples(task, query, setting)
                check(build_prompt(query, demonstrations, setting.with_images, own_template))
        except TooManyTokensError as error:
            return error
        return None

    _check_longest_first(task, settings, error_of)


def check_retrieved_prompts(
    task: Task, settings: Sequence[Setting], check: Check, template: CaptionTemplate | None = None
) -> None:
    """Checks prompts with similar demonstrations before it is known which ones are similar.

    Prompts with the longest captions of the support may be longer than any that is asked. Where they do not fit, that
    is logged.

    Raises:
        UserError: Where prompts do not even fit with the shortest captions of the support.
    """
    of_supports: dict[str | None, list[Setting]] = {}
    for setting in settings:
        of_supports.setdefault(setting.support, []).append(setting)
    for support, of_support in of_supports.items():
        _check_retrieved(with_support(task, support), of_support, check, template or CaptionTemplate())


def _check_retrieved(task: Task, settings: Sequence[Setting], check: Check, template: CaptionTemplate) -> None:
    """Checks prompts with similar demonstrations of the task's support.

    Raises:
        UserError: Where prompts do not fit with its shortest captions.
    """
    query = task.queries()[0]
    examples = [example for group in task.support(query) for example in group]
    shortest = sorted((_with_caption(example, min) for example in examples), key=_num_characters)
    longest = sorted((_with_caption(example, max) for example in examples), key=_num_characters, reverse=True)

    def error_of(setting: Setting, demonstrations: Sequence[Example]) -> TooManyTokensError | None:
        own_template = setting.caption_template(template)
        try:
            check(build_prompt(query, demonstrations[: setting.shots], True, own_template))
        except TooManyTokensError as error:
            return error
        return None

    _check_longest_first(task, settings, lambda setting: error_of(setting, shortest))
    uncertain = sorted({setting.shots for setting in settings if error_of(setting, longest)})
    if uncertain:
        log.warning(
            "%s: whether prompts with %s similar demonstrations fit is known when similar images are found: the "
            "longest captions of the support do not fit",
            task.name,
            _numbers(uncertain),
        )


def _with_caption(example: Example, choose: Callable[..., str]) -> Example:
    return example.with_caption(choose(example.references, key=len))


def _num_characters(example: Example) -> int:
    return len(example.references[0])


def _check_longest_first(
    task: Task, settings: Sequence[Setting], error_of: Callable[[Setting], TooManyTokensError | None]
) -> None:
    """Checks the settings of a kind from the most shots on. Settings with fewer shots than one that fits are not tried.

    Raises:
        UserError: For settings with an error.
    """
    kinds: dict[tuple[object, ...], list[Setting]] = {}
    for setting in settings:
        if setting.change.answer is None:  # else there is no prompt
            kind = (setting.demonstrations, setting.support, setting.change.replacement, setting.seed)
            kinds.setdefault(kind, []).append(setting)
    errors: dict[Setting, TooManyTokensError] = {}
    for of_kind in kinds.values():
        by_shots = {setting.shots: setting for setting in of_kind}
        for shots in sorted(by_shots, reverse=True):
            error = error_of(by_shots[shots])
            if error is None:
                break
            errors[by_shots[shots]] = error
    if errors:
        raise UserError(f"{task.name}: {_advice(settings, errors)}")


def _advice(settings: Sequence[Setting], errors: dict[Setting, TooManyTokensError]) -> str:
    """Returns which prompts are too long, and what to set."""
    shortest = min(errors, key=lambda setting: setting.num_demonstrations)
    reason = str(errors[shortest])
    if shortest.num_demonstrations == 0:
        return f"prompts without demonstrations are too long: {reason}; set a smaller max_new_tokens"
    too_long = {setting.shots for setting in errors if setting.with_images}
    if not too_long:
        return f"prompts with text-only demonstrations are too long: {reason}; set text_only=false"
    key = "shots" if any(setting.control is None for setting in errors) else "control_shots"
    fitting = {setting.shots for setting in settings if setting.control is None} - too_long
    fix = f"{key}={sorted(fitting)}" if fitting else f"a smaller {key}"
    return (
        f"prompts with {_numbers(sorted(too_long))} shots are too long: {reason}; set {fix} or a smaller max_new_tokens"
    )


def _numbers(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
