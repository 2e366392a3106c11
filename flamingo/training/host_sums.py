"""Numbers of the processes' hosts -> their sums, without waiting for a device."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from functools import cache

import torch
from torch import distributed

from flamingo.utils.devices import processes

#: How long a process waits for the others: for the slowest batch, record or sample. Then it ends with an error.
_TIMEOUT = timedelta(minutes=10)


def host_sums(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the sum of each value over the processes.

    The processes exchange the values by gloo, from host to host. NCCL would send them through the devices, and the
    hosts would wait for the devices' queues.
    """
    if processes().num_processes == 1:
        return dict(values)
    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    distributed.all_reduce(sums, group=_host_group())
    return dict(zip(values, sums.tolist(), strict=True))


def host_counts(counts: Counter[str]) -> Counter[str]:
    """Returns the sum of the counts over the processes, which may count different things."""
    if processes().num_processes == 1:
        return counts
    of_processes: list[Counter[str]] = [Counter()] * processes().num_processes
    distributed.all_gather_object(of_processes, counts, group=_host_group())
    return sum(of_processes, Counter())


@cache
def _host_group() -> distributed.ProcessGroup:
    return distributed.new_group(backend="gloo", timeout=_TIMEOUT)
