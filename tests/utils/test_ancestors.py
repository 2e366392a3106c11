"""A worker ends when the process that it works for is killed."""

import subprocess
import sys
import time

import psutil
import pytest

#: Works for the process that its argument names.
_WORKER = """
import os, sys, time
from flamingo.utils.ancestors import end_with
end_with(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(120)
"""
#: Starts a worker, which works for this process.
_PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid())])
"""
#: Starts a process that starts a worker, which works for this process.
_GRANDPARENT = """
import os, subprocess, sys
between = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
subprocess.run([sys.executable, "-c", between, sys.argv[1], str(os.getpid())])
"""


def start(code, argument):
    """Returns the process, and the id that its worker prints."""
    process = subprocess.Popen([sys.executable, "-c", code, argument], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("launcher", [_PARENT, _GRANDPARENT])
def test_a_worker_ends_when_its_launcher_is_killed(launcher):
    process, worker = start(launcher, _WORKER)
    assert is_running(worker)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)


def test_a_process_that_is_no_ancestor_ends_nothing():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process, worker = start(_WORKER, str(other.pid))
    other.kill()
    other.wait()
    time.sleep(1.5)
    assert is_running(worker)
    process.kill()
    process.wait()
