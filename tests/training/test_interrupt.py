"""Signals that wait for the current step."""

import os
import signal

import pytest

from flamingo.training import interrupt as interrupts
from flamingo.training.interrupt import deferred_interrupt


@pytest.fixture
def handled(monkeypatch):
    """The signals that usual handlers have been called with."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    calls = []
    before = {number: signal.signal(number, lambda number, _: calls.append(number)) for number in numbers}
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_the_first_signal_waits_and_the_second_acts(handled, number):
    with deferred_interrupt() as interrupt:
        assert interrupt.agreed() is None
        send(number)
        assert (interrupt.agreed(), handled) == (number, [])
        send(number)
        assert handled == [number]
    send(number)
    assert handled == [number, number]


def test_a_requeue_comes_first_after_sigterm(handled):
    """SLURM sends SIGTERM and submitit's signal when it preempts a job. The job shall go back into the queue."""
    with deferred_interrupt() as interrupt:
        send(signal.SIGTERM, signal.SIGUSR2)
        assert interrupt.agreed() == signal.SIGUSR2
        assert handled == []
        send(signal.SIGINT)
        assert handled == [signal.SIGINT]


def test_signals_that_torchrun_repeats_do_nothing_more(handled, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with deferred_interrupt() as interrupt:
        send(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
        assert interrupt.agreed() == signal.SIGTERM
    assert handled == []
    send(signal.SIGTERM)
    assert handled == [signal.SIGTERM]


def test_a_signal_of_another_process_stops_this_one(handled, monkeypatch):
    with deferred_interrupt() as interrupt:
        send(signal.SIGINT)
        other = {"sum": lambda values: values | {str(int(signal.SIGUSR1)): 1.0}}
        monkeypatch.setattr(interrupts, "host_sums", other["sum"])
        assert interrupt.agreed() == signal.SIGUSR1


def test_an_ignored_signal_stays_ignored(handled):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    with deferred_interrupt() as interrupt:
        send(signal.SIGINT)
        assert interrupt.agreed() is None
