"""The launcher of process groups: what it returns, and that no process outlives it."""

import os
import signal
import time

import psutil
import pytest
import torch
from torch import distributed

from flamingo.utils.devices import processes
from tests.helpers.forked import run_processes, values_of_processes


def _left():
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_processes_share_a_group_and_return_by_rank():
    base = torch.tensor([1.0, 2.0])

    def share():
        total = base * (processes().process_index + 1)
        distributed.all_reduce(total)
        return {"sum": total, "rank": processes().process_index, "size": processes().num_processes}

    before = _left()
    first, second = values_of_processes(2, share)
    assert (first["rank"], second["rank"], second["size"]) == (0, 1, 2)
    assert torch.equal(first["sum"], base * 3) and torch.equal(second["sum"], base * 3)
    assert _left() == before
    assert processes().num_processes == 1


@pytest.mark.full
def test_a_failing_and_a_killed_rank_end_the_others():
    def fail(rank_to_fail, by_signal):
        if processes().process_index == rank_to_fail:
            if by_signal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("lost")
        distributed.barrier()

    first, second = run_processes(2, fail, 1, False)
    assert (first.exitcode, second.exitcode) == (1, 1)
    assert "KeyError: 'lost'" in second.error
    first, second = run_processes(2, fail, 0, True)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 1)
    with pytest.raises(AssertionError, match=r"(?s)rank 1.*lost"):
        values_of_processes(2, fail, 1, False)


@pytest.mark.full
def test_a_process_that_hangs_is_killed():
    before = _left()
    (only,) = run_processes(1, time.sleep, 60, seconds=1)
    assert only.exitcode is None and "still running" in only.error
    assert _left() == before
