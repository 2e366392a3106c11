"""Demonstrations that alternate between classes, one of each in turn, and their shots per class."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from flamingo.evaluation.protocol import Example, Task
from flamingo.results import Row
from flamingo.utils.errors import UserError


@runtime_checkable
class AlternatingTask(Task, Protocol):
    """A task whose demonstrations alternate between classes, in place of random examples of all groups."""

    #: The number of classes in a prompt. Shots are a multiple of it.
    num_ways: int

    def rounds(self, query: Example, number: int, seed: int, order: int) -> Sequence[Sequence[Example]]:
        """Returns rounds of demonstrations, one of each class. Fewer rounds have demonstrations of more rounds.

        Args:
            query: The query.
            number: The number of rounds.
            seed: The seed of the setting.
            order: The number of a random order; every order has the same demonstrations.

        Raises:
            UserError: If there are not as many.
        """
        ...


def alternating_demonstrations(
    task: AlternatingTask, query: Example, shots: int, seed: int, order: int = 0
) -> list[Example]:
    """Returns the demonstrations of a task whose demonstrations alternate between classes.

    Args:
        task: The task.
        query: The query.
        shots: The number of demonstrations.
        seed: The seed of the setting.
        order: The number of a random order; every order has the same demonstrations.

    Raises:
        UserError: If the shots are not a multiple of the number of classes, or there are not as many.
    """
    if shots % task.num_ways:
        raise UserError(f"{task.name}: {shots} shots cannot be divided among {task.num_ways} classes")
    demonstrations: list[Example] = []
    for one_of_each in task.rounds(query, shots // task.num_ways, seed, order):
        demonstrations += one_of_each
    return demonstrations


def mark_shots_per_class(task: Task, rows: Sequence[Row]) -> None:
    """Adds ``shots_per_class`` to the rows of scores of a task whose demonstrations alternate between classes."""
    if isinstance(task, AlternatingTask):
        for row in rows:
            row["shots_per_class"] = row["shots"] // task.num_ways
