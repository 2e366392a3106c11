"""Parts of a check, one for each way to end."""

import os
import signal
import subprocess
import sys
import time

from experiments.gpu_check.check_parts import SkippedError


def finish(settings, save):
    save({"device": settings.device, "small": settings.small}, "all of it")


def skip(settings, save):
    raise SkippedError("it is not there")


def save_and_fail(settings, save):
    save({"number": 1}, "the first half")
    raise RuntimeError("no second half")


def crash(settings, save):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(settings, save):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    save({"child": child.pid}, "before it hangs")
    time.sleep(600)
