"""Compares the model on paper of a training step with steps on this machine's CPU, in 1, 2 and 4 processes.

python -m experiments.benchmark.step_time_check
python -m experiments.benchmark.step_time_check --processes 1 2 --rounds 1

Each process has one thread. The rates of the collectives and of the compute are measured alone, and the model adds them
up to a step. gloo reduces and scatters by an all-reduce of the whole tensor, which the measured rate contains: its
times and its memory say nothing of NCCL's.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn

from experiments.benchmark.flops import training_step
from experiments.benchmark.scaling_model import FP32, Device, Layout, Update, step_time, weights
from experiments.benchmark.shapes import Shape
from experiments.gpu_check.big_model import BatchSize, build_model, build_processor, make_training_batch
from flamingo.training import ParallelConfig
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.parallel import Parallel, distribute
from flamingo.utils.devices import HOST, use_device
from flamingo.utils.io import write_text
from flamingo.utils.memory import keep_memory

#: 19M weights, most of them in the layers and blocks.
SHAPE = Shape(
    width=384,
    layers=6,
    heads=6,
    vocab_size=4000,
    vision_width=192,
    vision_layers=3,
    image_size=56,
    patch=14,
    every=2,
    num_heads=6,
    head_dim=64,
    resampler_depth=2,
    num_latents=16,
)
UPDATE = Update(rows=4, tokens=64, images=2)
ENGINES = ("ddp", "fsdp2")
#: Bytes between which a collective is timed: two points give its latency and its rate.
_SMALL, _LARGE = 2**16, 2**22


@dataclass(frozen=True)
class Rate:
    """The seconds of a collective as a function of the bytes of the whole tensor."""

    latency: float
    seconds_per_byte: float

    def __call__(self, size: float) -> float:
        """Returns the seconds for a number of bytes."""
        return self.latency + size * self.seconds_per_byte


@dataclass(frozen=True)
class MeasuredNetwork:
    """The collectives among all processes of this machine, at their measured rates."""

    gather: Rate
    scatter: Rate
    reduce: Rate

    def all_gather(self, size: float, ranks: int) -> float:
        """Returns the seconds of an all-gather."""
        return self.gather(size)

    def reduce_scatter(self, size: float, ranks: int) -> float:
        """Returns the seconds of a reduce-scatter."""
        return self.scatter(size)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Returns the seconds of an all-reduce."""
        return self.reduce(size)

    def all_reduce_of_nodes(self, size: float, nodes: int) -> float:
        """Returns 0: there is one node."""
        assert nodes == 1, "this machine is one node"
        return 0.0


def main() -> None:
    """Prints a table of predicted and measured steps."""
    arguments = _arguments()
    print("| processes | engine | predicted, s | of it communication | measured, s | measured / predicted |")
    print("|--:|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for num_processes in arguments.processes:
            file = Path(folder, f"{num_processes}.md")
            work = (num_processes, arguments.port + num_processes, arguments.rounds, file)
            multiprocessing.start_processes(_measure, work, nprocs=num_processes, start_method="spawn")
            print(file.read_text(encoding="utf-8"), end="", flush=True)


def _measure(rank: int, num_processes: int, port: int, rounds: int, file: Path) -> None:
    """Measures in one process of several. The first one writes the lines of the table."""
    torch.set_num_threads(1)
    # torch 2.13 renames two collectives, whose new names torch 2.11 does not have.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
    os.environ |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    use_device("cpu")
    keep_memory()  # the first model would otherwise pay for page faults that later ones do not have
    processor = build_processor(SHAPE)
    batch = make_training_batch(SHAPE, processor, BatchSize(UPDATE.rows, UPDATE.tokens, UPDATE.images))
    tensors = processor.normalized(batch.to(HOST).tensors)

    def engine(kind: str) -> Parallel:
        return distribute(build_model(SHAPE, processor, HOST, torch.float32), ParallelConfig(kind=kind))

    alone = Parallel(build_model(SHAPE, processor, HOST, torch.float32))
    passes, optimizer = _seconds_of_parts(alone, tensors, rounds)
    flops = sum(training_step(SHAPE, UPDATE.rows, UPDATE.tokens, UPDATE.images).values())
    traffic = weights(SHAPE).trained * 28
    device = Device(flops / passes, traffic / optimizer, images_per_second=1e9, overlaps=False)
    lines = []
    if num_processes == 1:
        lines.append(_line(Layout("single", 1), device, None, passes + optimizer))
    else:
        network = _measured_network(num_processes, rounds)
        for kind in ENGINES:
            measured = sum(_seconds_of_parts(engine(kind), tensors, rounds))
            shards = 1 if kind == "ddp" else num_processes
            lines.append(_line(Layout(kind, num_processes, shards, gathered=FP32), device, network, measured))
        distributed.destroy_process_group()
    if rank == 0:
        write_text(file, "".join(lines))


def _line(layout: Layout, device: Device, network: MeasuredNetwork | None, measured: float) -> str:
    """Returns a line of the table. Without a network there is a single process."""
    nothing = MeasuredNetwork(Rate(0, 0), Rate(0, 0), Rate(0, 0))
    predicted = step_time(SHAPE, UPDATE, layout, device, network or nothing)
    return (
        f"| {layout.ranks} | {layout.kind} | {predicted.seconds:.3f} | {predicted.communication:.3f} "
        f"| {measured:.3f} | {measured / predicted.seconds:.2f} |\n"
    )


def _seconds_of_parts(parallel: Parallel, tensors: dict[str, torch.Tensor], rounds: int) -> tuple[float, float]:
    """Returns the median seconds of the passes with clipping, and of the optimizer. The first round does not count."""
    trained = [parameter for parameter in parallel.bare.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parallel.bare, AdamWConfig(lr=1e-4))
    passes, steps = [], []
    for _ in range(rounds + 1):
        _wait()
        passes.append(_timed(partial(_passes, parallel, tensors, trained)))
        steps.append(_timed(optimizer.step))
        optimizer.zero_grad()
    return statistics.median(passes[1:]), statistics.median(steps[1:])


def _passes(parallel: Parallel, tensors: dict[str, torch.Tensor], trained: list[nn.Parameter]) -> None:
    with parallel.synchronised(is_last=True):
        loss = parallel.model(**tensors).loss
        parallel.joined(loss).backward()
    parallel.clip(trained, 1.0)


def _measured_network(num_processes: int, rounds: int) -> MeasuredNetwork:
    def gather(size: int) -> None:
        whole = torch.ones(size // FP32)
        distributed.all_gather_into_tensor(whole, whole[: len(whole) // num_processes].clone())

    def scatter(size: int) -> None:
        whole = torch.ones(size // FP32)
        distributed.reduce_scatter_tensor(torch.empty(len(whole) // num_processes), whole)

    def reduce(size: int) -> None:
        distributed.all_reduce(torch.ones(size // FP32))

    return MeasuredNetwork(*[_rate(collective, 3 * rounds) for collective in (gather, scatter, reduce)])


def _rate(collective: Callable[[int], None], rounds: int) -> Rate:
    """Returns the line through the median seconds for a small and a large tensor."""
    seconds = {}
    for size in (_SMALL, _LARGE):
        collective(size)
        times = []
        for _ in range(rounds):
            _wait()
            times.append(_timed(partial(collective, size)))
        seconds[size] = statistics.median(times)
    per_byte = max(0.0, (seconds[_LARGE] - seconds[_SMALL]) / (_LARGE - _SMALL))
    return Rate(max(0.0, seconds[_SMALL] - per_byte * _SMALL), per_byte)


def _wait() -> None:
    if distributed.is_initialized():
        distributed.barrier()


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--port", type=int, default=29600)
    return parser.parse_args()


if __name__ == "__main__":
    main()
