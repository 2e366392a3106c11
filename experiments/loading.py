"""Data sets as the training loop takes them: endless, in a seeded order, resumable, split over processes."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState
from torchdata.stateful_dataloader import StatefulDataLoader

from flamingo.data.mixture import Mixture
from flamingo.training.objective import Batch, DataSet

# Of torchdata's own making, at every start.
warnings.filterwarnings("ignore", message="'set_vital' is deprecated")


def data_set(
    name: str,
    items: Sequence[Any],
    collate: Callable[[list[Any]], Batch],
    *,
    batch: int,
    seed: int,
    workers: int,
    **settings: Any,
) -> DataSet:
    """``items`` shuffled anew each epoch, ``batch`` at a time; made by ``workers`` processes, or (0) in this one.

    ``settings`` are further fields of the :class:`DataSet`.
    """
    processes = PartialState()
    mixture = Mixture({name: items}, {name: 1.0}, seed, processes.process_index, processes.num_processes)

    def batched(drawn: list[tuple[str, Any]]) -> Batch:
        return collate([item for _, item in drawn])

    loader = StatefulDataLoader(mixture, batch_size=batch, num_workers=workers, collate_fn=batched)
    return DataSet(name, loader, **settings)
