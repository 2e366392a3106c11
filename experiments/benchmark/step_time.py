"""Tables on paper: seconds of a training step, tokens a second and memory, for 8 to 1,024 GPUs.

python -m experiments.benchmark.step_time
python -m experiments.benchmark.step_time --shape 9b --rows 32 --mfu 0.4
python -m experiments.benchmark.step_time --shape 3b --update_rows 2048        an update of one size, over the GPUs
python -m experiments.benchmark.step_time --network_gbit 200 --cores 8

Nothing is run. Assumptions: docs/scaling.md.
"""

import argparse
import math
from dataclasses import replace

from experiments.benchmark.flops import training_step
from experiments.benchmark.scaling_model import Cluster, Device, Layout, StepTime, Update, step_memory, step_time
from experiments.benchmark.shapes import Shape
from experiments.gpu_check.big_model import FLAMINGO_3B

#: OpenFlamingo's models on RedPajama-INCITE-3B and MPT-7B (arXiv 2308.01390, table 1).
_OPEN_FLAMINGO_4B = replace(FLAMINGO_3B, width=2560, layers=32, vocab_size=50432, every=2, num_heads=8, head_dim=64)
_OPEN_FLAMINGO_9B = replace(_OPEN_FLAMINGO_4B, width=4096, every=4)
SHAPES = {"3b": FLAMINGO_3B, "4b": _OPEN_FLAMINGO_4B, "9b": _OPEN_FLAMINGO_9B}
GPUS = (1, 8, 32, 128, 512, 1024)
#: The dense bf16 peak of an H100 SXM or H200, in operations a second.
_PEAK = 989e12
#: The rate of copies that an H100 reaches.
_MEMORY_BANDWIDTH = 3.0e12
#: Kernels of a step of the 3B shape on an H200 (docs/gpu.md), with 5 microseconds each on the host.
_LAUNCH_SECONDS = 6_560 * 5e-6
#: Images a second of a core: JPEGs of 500 x 375 pixels.
_IMAGES_OF_A_CORE = 430


def main() -> None:
    """Prints the tables in Markdown."""
    arguments = _arguments()
    for name in arguments.shape:
        print(table(name, arguments))


def table(name: str, arguments: argparse.Namespace) -> str:
    """Returns the table of a shape.

    Args:
        name: The name of the shape.
        arguments: Those of the command line.
    """
    shape = SHAPES[name]
    device = Device(arguments.mfu * _PEAK, _MEMORY_BANDWIDTH, arguments.cores * _IMAGES_OF_A_CORE, _LAUNCH_SECONDS)
    cluster = Cluster(network_bandwidth=0.8 * arguments.network_gbit / 8 * 1e9)
    lines = [
        f"{name}: {_title(arguments)}",
        "",
        "| GPUs | engine | s a step | of it waiting for the network | communication, s | tokens/s | MFU | memory, GB |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for gpus in GPUS:
        update = _update(arguments, gpus)
        for layout in layouts(gpus, cluster.gpus_per_node):
            lines.append(_line(shape, update, layout, step_time(shape, update, layout, device, cluster)))
    return "\n".join(lines) + "\n"


def _update(arguments: argparse.Namespace, gpus: int) -> Update:
    """Returns the batches of a GPU. A batch has at most ``--rows``."""
    if arguments.update_rows is None:
        return Update(arguments.rows, arguments.tokens, arguments.images)
    rows = max(1, arguments.update_rows // gpus)
    accumulate = math.ceil(rows / arguments.rows)
    return Update(rows // accumulate, arguments.tokens, arguments.images, accumulate)


def _title(arguments: argparse.Namespace) -> str:
    sizes = f"rows of {arguments.tokens} tokens with {arguments.images} images"
    if arguments.update_rows is None:
        return f"{arguments.rows} {sizes} a GPU"
    return f"{arguments.update_rows} {sizes} an update"


def layouts(gpus: int, gpus_per_node: int) -> list[Layout]:
    """Returns the engines for a number of GPUs. On one node ``hsdp`` is ``fsdp2``."""
    if gpus == 1:
        return [Layout("single", 1)]
    found = [Layout("ddp", gpus), Layout("fsdp2", gpus, shards=gpus)]
    if gpus > gpus_per_node:
        found.append(Layout("hsdp", gpus, shards=gpus_per_node))
    return found


def _line(shape: Shape, update: Update, layout: Layout, time: StepTime) -> str:
    rows = update.rows * update.accumulate
    tokens = rows * update.tokens
    flops = sum(training_step(shape, rows, update.tokens, update.images).values())
    memory = step_memory(shape, update, layout) / 1e9
    return (
        f"| {layout.ranks} | {layout.kind} | {time.seconds:.3f} | {time.waiting / time.seconds:.0%} "
        f"| {time.communication:.3f} | {layout.ranks * tokens / time.seconds:,.0f} "
        f"| {flops / time.seconds / _PEAK:.0%} | {memory:.0f} |"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=64, help="of a GPU in a batch")
    parser.add_argument("--update_rows", type=int, help="of all GPUs in an update, in place of --rows")
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--images", type=int, default=3, help="of a row")
    parser.add_argument("--mfu", type=float, default=0.33, help="share of the peak that one GPU reaches alone")
    parser.add_argument("--network_gbit", type=float, default=400, help="of each GPU between nodes")
    parser.add_argument("--cores", type=int, default=12, help="that decode images for each GPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
