"""Data sets as the training loop takes them: endless, resumable, split over processes."""

from collections.abc import Callable
from typing import Any

from accelerate import PartialState

from flamingo.data.loader import Loader
from flamingo.data.order import Endless
from flamingo.training.step import Batch, DataSet


def data_set(
    name: str,
    items: Endless[Any],
    collate: Callable[[list[Any]], Batch],
    *,
    batch_size: int,
    num_workers: int,
    **settings: Any,
) -> DataSet:
    """Returns the share of this process of ``items``, ``batch_size`` at a time.

    ``settings`` are further fields of the :class:`DataSet`.
    """
    processes = PartialState()
    rank, num_ranks = processes.process_index, processes.num_processes
    loader = Loader(items, collate, batch_size, num_workers, rank, num_ranks)
    return DataSet(name, loader, **settings)
