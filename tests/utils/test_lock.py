"""One owner of a folder: across processes, kills, forks and hosts, with and without flock."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from flamingo.utils import lock
from flamingo.utils.errors import UserError
from flamingo.utils.lock import HEARTBEAT, LOCK, owner

processes = multiprocessing.get_context("fork")


def no_flock(*_):
    raise OSError(errno.ENOLCK, "no locks available")


def announce_and_sleep(ready):
    """Sends the worker's process id: it has forgotten by then what its parent owns."""
    ready.send(os.getpid())
    time.sleep(60)


def hold(folder, ready, host="here", child=False):
    """Owns the folder until it is killed; with ``child``, so does what a data loader's worker inherits."""
    socket.gethostname = lambda: host
    with owner(folder):
        if child:
            worker = processes.Process(target=announce_and_sleep, args=(ready,))
            worker.start()
        else:
            ready.send(None)
        time.sleep(60)


def holder(folder, **arguments):
    mine, theirs = processes.Pipe()
    process = processes.Process(target=hold, args=(folder, theirs), kwargs=arguments)
    process.start()
    theirs.close()  # so that a holder that fails is not waited for
    return process, mine.recv()


@pytest.mark.parametrize("flock", [True, False])
def test_a_second_owner_is_refused_by_folder_host_and_process(tmp_path, monkeypatch, flock):
    if not flock:
        monkeypatch.setattr("fcntl.flock", no_flock)
    process, _ = holder(tmp_path / "run", host="elsewhere")
    try:
        said = rf"{tmp_path}/run is in use by process {process.pid} on elsewhere"
        with pytest.raises(UserError, match=said), owner(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.join()


def test_a_killed_owner_frees_the_folder_though_its_worker_lives(tmp_path, monkeypatch):
    process, worker = holder(tmp_path, host="elsewhere", child=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        os.kill(worker, 0)  # it lives
        monkeypatch.setattr(socket, "gethostname", lambda: "here")
        with owner(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["host"] == "here"
    finally:
        os.kill(worker, signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_who_waits_owns_the_folder_when_its_owner_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_POLL", 0.05)
    process, _ = holder(tmp_path)
    killer = processes.Process(target=lambda: (time.sleep(0.3), process.kill()))
    killer.start()
    with owner(tmp_path, wait=True):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    process.join()
    killer.join()


def test_a_process_owns_a_folder_repeatedly_and_forks_keep_it(tmp_path):
    with owner(tmp_path):
        with owner(tmp_path / "." / ".." / tmp_path.name):
            pass
        fork = processes.Process(target=lock._drop_in_child)
        fork.start()
        fork.join()
        refused = processes.Process(target=exits_0_if_refused, args=(tmp_path,))
        refused.start()
        refused.join()
        assert refused.exitcode == 0


def exits_0_if_refused(folder):
    try:
        with owner(folder):
            os._exit(1)
    except UserError:
        os._exit(0)


def test_without_flock_a_silent_owner_is_dead_after_two_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", no_flock)
    monkeypatch.setattr(lock, "_SETTLE", 0.01)
    process, _ = holder(tmp_path, host="elsewhere")
    process.kill()
    process.join()
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    for age, free in ((100, False), (130, True)):
        os.utime(tmp_path / HEARTBEAT, (time.time() - age,) * 2)
        if not free:
            with pytest.raises(UserError, match="elsewhere"), owner(tmp_path):
                pass
        else:
            with owner(tmp_path):
                assert json.loads((tmp_path / HEARTBEAT).read_text())["host"] == "here"
    assert not list(tmp_path.iterdir())


def test_without_flock_an_owner_signals_and_ends_when_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", no_flock)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    process, _ = holder(tmp_path)
    old = time.time() - 100
    os.utime(tmp_path / HEARTBEAT, (old, old))
    deadline = time.monotonic() + 20
    while (tmp_path / HEARTBEAT).stat().st_mtime < old + 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / HEARTBEAT).stat().st_mtime > old + 50
    (tmp_path / HEARTBEAT).write_text('{"host": "elsewhere", "pid": 1}')
    process.join(20)
    assert process.exitcode == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run.*Not a directory"), owner(tmp_path / "file" / "run"):
        pass
