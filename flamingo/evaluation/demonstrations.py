"""Query and setting -> the demonstrations that the prompt shows, random or retrieved: a pure function of both."""

import math
from collections.abc import Sequence

from flamingo.evaluation.alternating import AlternatingTask, alternating_demonstrations
from flamingo.evaluation.protocol import (
    Example,
    RankingTask,
    RetrievalTask,
    Task,
    TextRetrievalTask,
    with_support,
)
from flamingo.evaluation.random_draws import draw_positions, query_rng
from flamingo.evaluation.selection import SELECTIONS
from flamingo.evaluation.settings import Setting
from flamingo.utils.errors import UserError

#: Parts of seeds: another text draws other demonstrations, another order, other captions.
_GROUP_STREAM, _ORDER_STREAM, _CAPTION_STREAM = "group", "order", "caption"


def prompt_examples(task: Task, query: Example, setting: Setting, order: int = 0) -> list[Example]:
    """Returns the demonstrations as the prompt shows them: with images or captions replaced by the control.

    Args:
        task: The task, which has the query's support.
        query: The query.
        setting: The number of demonstrations, their selection and support, and the control.
        order: The number of a random order; every order has the same demonstrations.

    Raises:
        UserError: For a setting that the task does not support.
    """
    if setting.selection is None:
        return []
    if not setting.selection.images and not task.text_only:
        raise UserError(f"{task.name} has no 0-shot variant with text-only demonstrations")
    task = with_support(task, setting.support)
    if setting.selection.retrieved:
        demonstrations = retrieve_demonstrations(task, query, setting, order)
    elif isinstance(task, AlternatingTask):
        demonstrations = alternating_demonstrations(task, query, setting.num_demonstrations, setting.seed, order)
    else:
        demonstrations = sample_demonstrations(task, query, setting.num_demonstrations, setting.seed, order)
    if setting.change.replacement is not None:
        return setting.change.replacement(task, query, demonstrations, setting.seed)
    return demonstrations


def ensembled_orders(task: Task, query: Example, setting: Setting, order: int = 0) -> list[int]:
    """Returns the numbers of the orders whose log-likelihoods are averaged; the order itself without an ensemble.

    Prompt ensembling (Flamingo, section 3.1; OpenFlamingo's evaluation) shows the demonstrations in several random
    orders, also those that are retrieved. There are at most as many as the demonstrations have.

    Args:
        task: The task.
        query: The query.
        setting: The number of demonstrations.
        order: The number of the order in the results.
    """
    number = task.rank(query).ensembled_orders if isinstance(task, RankingTask) else 1
    number = min(number, math.factorial(setting.num_demonstrations))
    if number == 1:
        return [order]
    first = order * number + 1  # order 0 of retrieved demonstrations is not random
    return list(range(first, first + number))


def shots_per_group(task: Task, query: Example, groups: Sequence[Sequence[Example]], shots: int) -> int:
    """Returns the number of demonstrations that each group of the query's support contributes.

    Raises:
        UserError: If the groups cannot contribute equal numbers, or have too few examples.
    """
    if not groups or shots % len(groups):
        raise UserError(f"{task.name}: {shots} shots cannot be divided among the {len(groups)} groups of {query.id}")
    per_group = shots // len(groups)
    for number, group in enumerate(groups):
        if per_group > len(group):
            raise UserError(
                f"{task.name}: group {number} of {query.id} has {len(group)} examples, {per_group} are needed"
            )
    return per_group


def check_shots(task: Task, query: Example, shots: int) -> None:
    """Checks that a query's support suffices for a number of random demonstrations.

    Raises:
        UserError: If it does not.
    """
    if isinstance(task, AlternatingTask):
        alternating_demonstrations(task, query, shots, seed=0)
    else:
        shots_per_group(task, query, task.support(query), shots)


def sample_demonstrations(task: Task, query: Example, shots: int, seed: int, order: int = 0) -> list[Example]:
    """Returns ``shots`` random demonstrations, equal numbers from each group, each with one caption.

    Fewer shots are a subset of more shots, with the same captions.

    Args:
        task: The task, which has the query's support.
        query: The query.
        shots: The number of demonstrations.
        seed: The seed of the setting.
        order: The number of a random order; every order has the same demonstrations.

    Raises:
        UserError: If the groups cannot contribute as many.
    """
    groups = task.support(query)
    per_group = shots_per_group(task, query, groups, shots)
    demonstrations: list[Example] = []
    for number, group in enumerate(groups):
        # The size of the group is part of the seed. Another pool therefore gives other demonstrations, and the harness
        # notices them in earlier predictions.
        rng = query_rng(seed, query, _GROUP_STREAM, number, len(group))
        demonstrations += [group[position] for position in draw_positions(rng, len(group), per_group)]
    assert query.id not in {example.id for example in demonstrations}, f"the support of {query.id} contains it"
    query_rng(seed, query, _ORDER_STREAM, order).shuffle(demonstrations)
    return [_with_random_caption(example, query, seed) for example in demonstrations]


def retrieve_demonstrations(task: Task, query: Example, setting: Setting, order: int = 0) -> list[Example]:
    """Returns the demonstrations most similar to the query, the most similar last (RICES; Flamingo, section 3.1).

    Each has one caption, which does not depend on the number of shots.

    Args:
        task: The task, which has the query's support.
        query: The query.
        setting: The number of demonstrations, their selection and the seed.
        order: 0: the most similar last. Others are random orders.

    Raises:
        UserError: For a task without this retrieval.
    """
    check_retrieval(task, setting)
    if setting.text_similarity is None:
        assert isinstance(task, RetrievalTask)
        nearest_first = task.similar(query, setting.shots)
    else:
        assert isinstance(task, TextRetrievalTask)
        nearest_first = task.similar_by(setting.text_similarity, query, setting.shots)
    demonstrations = list(reversed(nearest_first))
    if order > 0:
        query_rng(setting.seed, query, _ORDER_STREAM, order).shuffle(demonstrations)
    return [_with_random_caption(example, query, setting.seed) for example in demonstrations]


def check_retrieval(task: Task, setting: Setting) -> None:
    """Checks that the demonstrations of a setting can be retrieved.

    Raises:
        UserError: For a task without this retrieval.
    """
    if setting.is_retrieved and not isinstance(task, RetrievalTask):
        raise UserError(f"{task.name} has no similar demonstrations: only random ones")
    similarity = setting.text_similarity
    known = task.text_similarities if isinstance(task, TextRetrievalTask) else ()
    if similarity is not None and similarity not in known:
        names = [name for name, selection in SELECTIONS.items() if selection.similarity in known]
        raise UserError(
            f"{task.name} has no demonstrations={setting.demonstrations}: it has {', '.join(['rices', *names])}"
        )


def _with_random_caption(example: Example, query: Example, seed: int) -> Example:
    rng = query_rng(seed, query, _CAPTION_STREAM, example.id)
    return example.with_caption(rng.choice(example.references))
