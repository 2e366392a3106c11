"""Batches depend on the position alone, not on the number of workers and processes."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flamingo.data import loader as loader_module
from flamingo.data.loader import Loader, process_loader
from flamingo.data.order import Mixture, Shuffled
from flamingo.utils.errors import UserError

ITEMS = Mixture({"a": Shuffled(range(100), 0), "b": Shuffled(range(1000, 1007), 0)}, {"a": 2.0, "b": 1.0}, seed=4)


def batches(number, start=0, items=ITEMS, **settings):
    loader = Loader(items, list, **{"batch_size": 3, **settings})
    loader.position = start
    return list(islice(loader, number))


@pytest.mark.parametrize(("device", "pins"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_batches_are_pinned_where_they_are_copied_to_cuda(monkeypatch, device, pins):
    settings = []

    class Recorded:
        def __init__(self, *args, **kwargs):
            settings.append(kwargs)

        def __iter__(self):
            return iter([[0]])

    state = SimpleNamespace(process_index=0, num_processes=1, device=torch.device(device))
    monkeypatch.setattr(loader_module, "processes", lambda: state)
    monkeypatch.setattr(loader_module, "DataLoader", Recorded)
    next(iter(process_loader(ITEMS, list, 3)))
    assert [one["pin_memory"] for one in settings] == [pins]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_the_number_of_workers_changes_no_batch(num_workers):
    expected = [[ITEMS[3 * i + k] for k in range(3)] for i in range(20)]
    assert batches(20) == expected
    assert batches(20, num_workers=num_workers) == expected


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (3, 1)])
def test_a_position_is_resumed_with_another_number_of_workers(before, after):
    first = Loader(ITEMS, list, 3, num_workers=before)
    seen = list(islice(first, 7))
    assert first.position == 21  # workers that are ahead do not count
    resumed = Loader(ITEMS, list, 3, num_workers=after)
    resumed.position = first.position
    assert seen + list(islice(resumed, 5)) == batches(12)


def test_iteration_continues_from_the_position():
    loader = Loader(ITEMS, list, 3)
    assert [next(iter(loader)) for _ in range(4)] == batches(4)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_global_batches_are_equal_for_any_number_of_processes(num_ranks):
    size = 8 // num_ranks
    ranks = [batches(30, items=Identity(), batch_size=size, rank=r, num_ranks=num_ranks) for r in range(num_ranks)]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        together = [position for share in shares for position in share]
        assert Counter(together) == Counter(range(8 * step, 8 * step + 8))


def test_all_processes_count_the_same_position():
    loaders = [Loader(ITEMS, list, 2, rank=rank, num_ranks=4) for rank in range(4)]
    for loader in loaders:
        list(islice(loader, 5))
    assert [loader.position for loader in loaders] == [40] * 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_positions_far_out_take_no_longer(num_workers):
    """A loader that walked to its position would not return."""
    assert batches(2, 10**15, Identity(), num_workers=num_workers) == [
        [10**15, 10**15 + 1, 10**15 + 2],
        [10**15 + 3, 10**15 + 4, 10**15 + 5],
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_random_states_of_the_training_process_are_kept(num_workers):
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    batches(4, num_workers=num_workers)
    assert draw() == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_error_is_the_same_sentence_from_a_worker(num_workers):
    with pytest.raises(UserError) as error:
        batches(9, items=Broken(), num_workers=num_workers)
    assert str(error.value) == "picture 7.png is broken"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_other_errors_keep_their_type(num_workers):
    with pytest.raises(ZeroDivisionError):
        batches(9, items=Broken(error=ZeroDivisionError), num_workers=num_workers)


def test_a_worker_makes_batches_after_the_signals_of_a_cluster():
    """They are sent to all processes of a job, of which the training process finishes its step."""
    inherited = signal.signal(signal.SIGUSR2, lambda *_: os._exit(1))  # submitit's handler would requeue the job
    loader = iter(Loader(ITEMS, list, batch_size=3, num_workers=2))
    made = [next(loader), next(loader)]  # one of each worker, which has started then
    signal.signal(signal.SIGUSR2, inherited)
    for worker in multiprocessing.active_children():
        for name in ("INT", "TERM", "USR1", "USR2"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)  # another process sends it
    time.sleep(0.3)
    made += islice(loader, 8)  # more than were made ahead of time
    assert made == batches(10)


@pytest.mark.skipif(sys.platform == "darwin", reason="has no sigwaitinfo")
def test_the_training_process_can_end_a_worker():
    """Else it would wait for its workers for ever when it ends by an error."""
    begun = multiprocessing.Event()

    def work():
        loader_module._ignore_signals(0)
        begun.set()
        time.sleep(60)

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    begun.wait(30)
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_key(change, key):
    with pytest.raises(UserError, match=key):
        Loader(ITEMS, list, **{"batch_size": 3, **change})


class Identity:
    def __getitem__(self, position):
        return position


class Broken:
    def __init__(self, error=UserError):
        self.error = error

    def __getitem__(self, position):
        if position == 7:
            raise self.error("picture 7.png is broken")
        return position
