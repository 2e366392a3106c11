r"""Measures speed and memory of our implementation and its peers, with the same weights, inputs and outputs.

make benchmark                                            all benchmarks: about 90 minutes on 2 idle cores
python -m experiments.benchmark --only few_shot decode    some benchmarks
python -m experiments.benchmark --width 64 --layers 2 --heads 2 --vocab_size 500 --vision_width 64 --vision_layers 2 \
    --shots 2 --support 4 --queries 4 --new 5 --train_tokens 48 --rounds 1      a test of a minute
python -m experiments.benchmark --shape 3b --device cuda --precision bf16 --peak_tflops 989    on an H100 or H200

Each implementation is a process, which waits while another one runs. OUTPUT/results.json has the results,
OUTPUT/results.md a table and OUTPUT/results.png a plot. A ratio is theirs / ours, in time or in memory: above 1 ours is
better. With --peak_tflops, OUTPUT/utilisation.md has the share of the peak that a training step reaches.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from experiments.benchmark import image_loading
from experiments.benchmark.few_shot import NEAR_TIE, Agreement, FewShot
from experiments.benchmark.materials import SHAPES, Sizes, build
from experiments.benchmark.ratios import Ratio, read_ratios, write_ratios
from experiments.benchmark.steps import Steps
from experiments.benchmark.utilisation import utilisation
from experiments.benchmark.worker import Machine, Worker
from flamingo.utils.io import write_text

#: The benchmarks in the order of running, with the peers of each.
BENCHMARKS = {
    "few_shot": ("open_flamingo",),
    "few_shot_shared": ("open_flamingo",),
    "decode": ("open_flamingo", "idefics"),
    "train_step": ("open_flamingo", "flamingo_pytorch", "idefics"),
    "train_step_features": ("open_flamingo",),
    "memory": ("open_flamingo", "flamingo_pytorch", "idefics"),
    "loader": (),
}
#: The programs of the implementations.
MODULES = {
    "ours": "experiments.benchmark.our_worker",
    "open_flamingo": "experiments.benchmark.open_flamingo_worker",
    "flamingo_pytorch": "experiments.benchmark.flamingo_pytorch_worker",
    "idefics": "experiments.benchmark.idefics_worker",
}
#: The implementations that run in our own environment.
IN_OUR_ENVIRONMENT = ("ours", "idefics")


@dataclass
class Settings:
    """What all benchmarks share."""

    sizes: Sizes
    machine: Machine
    #: The folders of the materials and of the results.
    folder: Path
    output: Path
    rounds: int
    peer_queries: int
    #: The interpreter of the peers' environment.
    peer_python: str
    #: The peak of the device in TFLOP/s; None: utilisation is not computed.
    peak_tflops: float | None
    agreement: Agreement


def main() -> None:
    """Runs the benchmarks of the command line."""
    arguments = _arguments()
    changed_sizes = {}
    for field in fields(Sizes):
        if hasattr(arguments, field.name):
            changed_sizes[field.name] = getattr(arguments, field.name)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    rows = read_ratios(output / "results.json")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            sizes=replace(SHAPES[arguments.shape], **changed_sizes),
            machine=Machine(arguments.threads, arguments.device, arguments.precision),
            folder=Path(folder),
            output=output,
            rounds=arguments.rounds,
            peer_queries=arguments.peer_queries,
            peer_python=arguments.peers,
            peak_tflops=arguments.peak_tflops,
            agreement=Agreement(NEAR_TIE[arguments.precision]),
        )
        build(settings.folder, settings.sizes)
        for name in arguments.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            earlier = [row for row in rows if row.benchmark != name]
            rows = earlier + _measure(name, settings)
            write_ratios(output, rows, settings.agreement, settings.machine)
    print((output / "results.md").read_text())
    if settings.agreement.different:
        sys.exit(f"outputs differ: {settings.agreement.different}")


def _measure(name: str, settings: Settings) -> list[Ratio]:
    """Runs the implementations of a benchmark.

    Returns:
        Its rows.
    """
    sizes, folder, rounds = settings.sizes, settings.folder, settings.rounds
    if name == "loader":
        return image_loading.measure(sizes, folder, settings.machine.threads, rounds)
    ours = _start("ours", settings)
    peers = [_start(peer, settings) for peer in BENCHMARKS[name]]
    steps = Steps(sizes, ours, peers, folder, rounds)
    match name:
        case "few_shot" | "few_shot_shared":
            few_shot = FewShot(sizes, ours, peers[0], folder, rounds, settings.peer_queries, settings.agreement)
            rows = few_shot.run(name, shared=name == "few_shot_shared")
        case "decode":
            rows = steps.decode()
        case "train_step":
            rows = steps.train_step()
            if settings.peak_tflops is not None:
                _write_utilisation(rows, settings, settings.peak_tflops)
            rows += steps.train_cost()
        case "train_step_features":
            rows = steps.train_step_features()
        case "memory":
            rows = steps.memory()
    for worker in (ours, *peers):
        worker.close()
    return rows


def _start(name: str, settings: Settings) -> Worker:
    python = sys.executable if name in IN_OUR_ENVIRONMENT else settings.peer_python
    return Worker(name, python, MODULES[name], settings.folder, settings.machine)


def _write_utilisation(rows: list[Ratio], settings: Settings, peak_tflops: float) -> None:
    seconds = {"ours": rows[0].ours}
    for row in rows:
        seconds[row.peer] = row.theirs
    text = utilisation(settings.sizes, seconds, peak_tflops)
    write_text(settings.output / "utilisation.md", text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--peers", default=".peers/bin/python", help="Python of the peers' environment")
    parser.add_argument("--rounds", type=_positive, default=3, help="measurements of each implementation, in turn")
    parser.add_argument("--peer_queries", type=_positive, default=1, help="queries that the peer answers a round")
    parser.add_argument("--threads", type=_positive, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32", choices=NEAR_TIE)
    parser.add_argument(
        "--peak_tflops", type=_positive_number, help="of the device in this precision, to be compared with"
    )
    parser.add_argument("--shape", default="125m", choices=SHAPES, help="whose sizes the following ones change")
    for name, value in vars(Sizes()).items():
        nargs = "+" if isinstance(value, list) else None
        parser.add_argument(f"--{name}", type=_positive, nargs=nargs, default=argparse.SUPPRESS)
    return parser.parse_args()


def _positive(text: str) -> int:
    """Returns a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: For any other text. argparse adds the name of the argument.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def _positive_number(text: str) -> float:
    """Returns a finite number above 0.

    Raises:
        argparse.ArgumentTypeError: For any other text. argparse adds the name of the argument.
    """
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text}")
    return number


if __name__ == "__main__":
    main()
