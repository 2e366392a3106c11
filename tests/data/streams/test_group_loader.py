"""The groups of a batch are the same for any number of processes, machines and workers."""

from itertools import islice

import pytest

from flamingo.data.streams import group_loader as group_loader_module
from flamingo.data.streams.group_loader import GroupLoader, group_loader
from flamingo.utils.errors import UserError


class Identity:
    def __getitem__(self, position):
        return position


def batches(number, start=0, **settings):
    loader = GroupLoader(Identity(), list, **{"batch_size": 12, **settings})
    loader.position = start
    return list(islice(loader, number))


@pytest.mark.parametrize(("num_ranks", "num_machines"), [(1, 1), (2, 1), (3, 3), (4, 2), (6, 2), (12, 4)])
def test_the_groups_of_a_batch_are_shared(num_ranks, num_machines):
    settings = {"num_ranks": num_ranks, "num_machines": num_machines}
    ranks = [batches(4, 24, rank=rank, **settings) for rank in range(num_ranks)]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        first = 24 + 12 * step
        assert sorted(group for share in shares for group in share) == list(range(first, first + 12))
    for rank, of_rank in enumerate(ranks):
        # A machine always has the same streams, as every process has.
        machine = rank // (num_ranks // num_machines)
        assert {group % num_machines for share in of_rank for group in share} == {machine}
        assert len({group % num_ranks for share in of_rank for group in share}) == 1


def test_a_run_goes_on_with_other_processes_and_workers():
    before = [GroupLoader(Identity(), list, 12, rank=rank, num_ranks=3) for rank in range(3)]
    seen = [group for loader in before for share in islice(loader, 5) for group in share]
    assert {loader.position for loader in before} == {60}
    after = [batches(2, 60, rank=rank, num_ranks=2, num_workers=rank) for rank in range(2)]
    seen += [group for of_rank in after for share in of_rank for group in share]
    assert sorted(seen) == list(range(84))


def test_another_batch_size_leaves_out_nothing():
    assert batches(2, 60, batch_size=5) == [[60, 61, 62, 63, 64], [65, 66, 67, 68, 69]]


def test_processes_that_cannot_share_a_batch_are_refused():
    with pytest.raises(UserError, match=r"batch_size=12\b.* 5 processes"):
        batches(1, num_ranks=5)


@pytest.mark.parametrize(("local", "num_machines"), [("2", 3), (None, 1), ("4", 1)])
def test_machines_are_counted_by_their_processes(monkeypatch, local, num_machines):
    state = group_loader_module.processes()
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)

    class State:
        process_index, num_processes, device = 1, 6, state.device

    monkeypatch.setattr(group_loader_module, "processes", State)
    loader = group_loader(Identity(), list, 12)
    first = next(iter(loader))
    # Rank 1 is the second process of the first machine.
    assert first == ([num_machines, num_machines + 6])
