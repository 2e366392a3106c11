"""Work is dealt by cost, results come in order, and a failure in one process ends all."""

import pytest
from torch import distributed

from flamingo.utils.devices import processes
from flamingo.utils.errors import FailedElsewhereError, UserError
from flamingo.utils.sharing import dealt, in_rounds, main_process_first, on_main_process, shared
from tests.helpers.forked import run_processes, values_of_processes


def test_each_piece_goes_to_the_process_with_the_least_work():
    assert dealt([3, 9, 4, 4, 1], 2) == [[1, 4], [0, 2, 3]]
    assert dealt([1, 1, 1, 1, 1], 3) == [[0, 3], [1, 4], [2]]
    assert dealt([5], 3) == [[0], [], []]
    assert dealt([2, 7], 1) == [[0, 1]]


def test_results_and_progress_are_those_of_all_processes():
    def work():
        own, progress = [], []

        def square(numbers):
            for number in numbers:
                own.append(number)
                yield number**2

        results = shared(square, [9, 3, 3, 3], [4, 1, 2, 3], progress.append)
        rounds = list(in_rounds(str, [5, 6, 7]))
        return own, results, progress, rounds, on_main_process(lambda: processes().process_index)

    first, second = values_of_processes(2, work)
    assert (first[0], second[0]) == ([0], [1, 2, 3])
    assert first[1] == second[1] == [0, 1, 4, 9]
    assert (first[2], second[2]) == ([10], [1, 4, 5])
    assert first[3] == second[3] == [[(5, "5"), (6, "6")], [(7, "7")]]
    assert first[4] == second[4] == 0
    alone = work()
    assert alone[:3] == ([0, 1, 2, 3], [0, 1, 4, 9], [4, 1, 2, 3])
    assert alone[3] == [[(5, "5")], [(6, "6")], [(7, "7")]]


def test_other_processes_stop_at_a_failure():
    def work():
        done = []

        def piece(numbers):
            for number in numbers:
                if number == 1:
                    raise UserError("piece 1 is broken")
                if number == 0:
                    store = distributed.distributed_c10d._get_default_store()
                    store.wait(["flamingo/shared/0/failure"])  # until the other process has failed
                done.append(number)
                yield number

        try:
            shared(piece, [1] * 9)
        except (UserError, FailedElsewhereError) as error:
            return str(error), done
        return None

    first, second = values_of_processes(2, work)
    assert first == ("process 1 of this run has failed", [0]) and second == ("piece 1 is broken", [])


@pytest.mark.parametrize("collective", [on_main_process, "first"])
def test_a_failure_of_the_main_process_ends_the_others(collective):
    def fail():
        raise UserError("the disk is full")

    def work():
        if collective == "first":
            with main_process_first():
                fail()
        else:
            collective(fail)

    ended = run_processes(2, work)
    assert "the disk is full" in ended[0].error
    assert "FailedElsewhereError" in ended[1].error and "the disk is full" not in ended[1].error
