"""Groups of an endless data set -> batches, whose groups are shared by any number of processes and machines."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from flamingo.data.loader import Loader
from flamingo.data.order import Endless
from flamingo.utils.devices import pins_memory, processes
from flamingo.utils.errors import UserError


class GroupLoader(Loader):
    """Batches of ``batch_size`` consecutive groups, which the processes share. ``position`` counts groups.

    The groups of a batch are the same for any number of processes. A run may therefore resume with another number.
    Machine k of n gets the groups g with g mod n = k. If n divides the number of streams, these are always of the same
    streams.
    """

    def __init__(
        self,
        items: Endless[Any],
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        pin_memory: bool = False,
        num_machines: int = 1,
    ) -> None:
        """Makes the loader of one process.

        Args:
            items: The groups.
            collate: Makes a batch of a list of groups.
            batch_size: The groups of a batch of all processes.
            num_workers: Processes that make batches ahead of time.
            rank: The number of this process. Those of a machine have consecutive numbers.
            num_ranks: The number of processes that train together.
            pin_memory: Whether batches lie in pinned memory.
            num_machines: The number of machines, each with as many processes.

        Raises:
            UserError: If the processes cannot share the groups of a batch evenly.
        """
        if batch_size % num_ranks != 0:
            raise UserError(f"batch_size={batch_size} groups cannot be shared evenly by {num_ranks} processes")
        super().__init__(items, collate, batch_size // num_ranks, num_workers, rank, num_ranks, pin_memory)
        self.num_machines = num_machines
        machine, local_rank = divmod(rank, num_ranks // num_machines)
        self._turn = machine + num_machines * local_rank

    def _positions(self) -> Iterator[range]:
        """Yields the groups of this process in each batch."""
        groups_of_batch = self.batch_size * self.num_ranks
        for start in count(self.position, groups_of_batch):
            yield range(start + self._turn, start + groups_of_batch, self.num_ranks)


def group_loader(
    items: Endless[Any], collate: Callable[[list[Any]], Any], batch_size: int, num_workers: int = 0
) -> GroupLoader:
    """Returns the :class:`GroupLoader` of this process."""
    state = processes()
    # torchrun and SLURM's launchers set it. Machines with different numbers of processes count as one.
    processes_per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    num_machines = max(1, state.num_processes // processes_per_machine)
    if num_machines * processes_per_machine != state.num_processes:
        num_machines = 1
    return GroupLoader(
        items,
        collate,
        batch_size,
        num_workers,
        rank=state.process_index,
        num_ranks=state.num_processes,
        pin_memory=pins_memory(state.device),
        num_machines=num_machines,
    )
