"""An implementation in a process of its own, which answers requests: one JSON object in each line.

This module imports torch only, since peers run in another environment.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

Handlers = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class Machine:
    """The device and the precision: fp32, or bf16, which means autocast in training."""

    threads: int
    device: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of frozen weights."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def load(self, path: str) -> dict[str, torch.Tensor]:
        """Returns the tensors of a file for all implementations."""
        return torch.load(path, map_location=self.device)

    def autocast(self) -> torch.autocast:
        """Returns the autocast of a training step."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def run(make: Callable[[Path, Machine], Any], *names: str) -> None:
    """Runs the main program of a worker.

    Args:
        make: (folder of the materials, machine) -> the implementation.
        names: The methods that answer the requests of the same names.
    """
    folder, threads, device, precision = sys.argv[1:]
    torch.set_num_threads(int(threads))
    worker = make(Path(folder), Machine(int(threads), device, precision))
    serve({name: getattr(worker, name) for name in names})


def serve(handlers: Handlers) -> None:
    """Answers each request ``{"do": NAME, ...}`` with the result of the handler NAME, its time and its peak memory."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries may print
    for line in sys.stdin:
        request = json.loads(line)
        _forget_peak()
        begin = time.perf_counter()
        handler = handlers[request.pop("do")]
        result = handler(**request)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer = {"result": result, "seconds": time.perf_counter() - begin, "peak": _peak_megabytes()}
        print(json.dumps(answer), file=answers, flush=True)


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # on Linux the peak becomes the resident memory


def _peak_megabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.split("VmHWM:")[1].split()[0])
    return kilobytes * 1024 / 1e6


class Worker:
    """The benchmark's side of a running worker."""

    def __init__(self, name: str, python: str, module: str, folder: Path, machine: Machine) -> None:
        """Starts ``python -m module``.

        Args:
            name: The name of the implementation.
            python: The interpreter of its environment.
            module: Its program, which calls :func:`run`.
            folder: The folder of the materials.
            machine: The device and the precision.
        """
        self.name = name.replace("_", "-")
        command = [python, "-m", module, str(folder), str(machine.threads), machine.device, machine.precision]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Returns the answer to a request: ``result``, ``seconds`` and ``peak`` (megabytes).

        Raises:
            RuntimeError: If the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request["do"] = do
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self._process.wait()}; its output is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def train(
    model: torch.nn.Module, loss: Callable[[], torch.Tensor], optimizer: Any, steps: int, machine: Machine
) -> list[float]:
    """Returns the seconds of each of ``steps`` updates. All implementations run this loop."""
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        with machine.autocast():
            value = loss()
        value.backward()
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return seconds


class Clock:
    """A stopping criterion that never stops, and records the time of each token."""

    def __init__(self, one_answer: bool = False) -> None:
        """Starts without times.

        Args:
            one_answer: Whether a call returns one answer for all rows, as transformers 4 needs.
        """
        self.one_answer = one_answer
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> Any:
        """Records the time of a token.

        Returns:
            That generation continues: False, or a tensor of False for each row.
        """
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        if self.one_answer:
            return False
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def seconds_per_token(self) -> float:
        """Returns the median time between two tokens."""
        return statistics.median(after - before for before, after in pairwise(self.times))


def seconds_per_token(model: Any, inputs: dict[str, torch.Tensor], tokens: int) -> float:
    """Returns the median time of ``tokens`` tokens that transformers 5 decodes greedily after a prompt."""
    clock = Clock()
    model.generate(
        **inputs,
        stopping_criteria=[clock],
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    return clock.seconds_per_token()
