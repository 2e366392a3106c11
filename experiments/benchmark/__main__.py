r"""Measures speed and memory beside peers: the same weights, inputs and outputs, runs in turn, medians of ratios.

make benchmark                                            all of it: about an hour and a half on 2 quiet cores
python -m experiments.benchmark --only few_shot decode    some of it
python -m experiments.benchmark --width 64 --layers 2 --heads 2 --vocabulary 500 --vision_width 64 --vision_layers 2 \
    --shots 2 --support 4 --queries 4 --new 5 --train_tokens 48 --rounds 1      does it run at all? a minute
python -m experiments.benchmark --shape 3b --device cuda --precision bf16 --peak_tflops 989    on an H100 or H200

Each implementation is a process of its own and waits while another runs. Results go to OUTPUT/results.json (ratio is
theirs / ours, of times and memory: more is better for us), a table to OUTPUT/results.md, a plot to OUTPUT/results.png.
With --peak_tflops, what share of this a training step reaches goes to OUTPUT/utilisation.md, with its arithmetic.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import torch

from experiments.benchmark import flops, image_loading, ratios
from experiments.benchmark.few_shot import NEAR_TIE, Agreement, few_shot
from experiments.benchmark.materials import SHAPES, Sizes, build
from experiments.benchmark.ratios import Row
from experiments.benchmark.steps import decode, memory, train_cost, train_step, train_step_features
from experiments.benchmark.worker import Machine, Worker
from flamingo.utils.io import write_text

#: In the order of running, and the implementations that each needs.
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
#: Numbers of which each may be chosen.
KEYS = {f.name for f in fields(Sizes)}
#: Those that run on our own transformers.
OURS = ("ours", "idefics")


def main() -> None:
    arguments = _arguments()
    sizes = replace(SHAPES[arguments.shape], **{key: value for key, value in vars(arguments).items() if key in KEYS})
    machine = Machine(arguments.threads, arguments.device, arguments.precision)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    rows = ratios.read(output / "results.json")
    agreement = Agreement(NEAR_TIE[arguments.precision])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(folder, sizes)
        for name in arguments.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            peers = BENCHMARKS[name]
            workers = {} if name == "loader" else _start(("ours", *peers), folder, arguments.peers, machine)
            ours, others = workers.get("ours"), [workers[peer] for peer in peers]
            made: list[Row]
            if name.startswith("few_shot"):
                peer_queries = arguments.peer_queries
                made = few_shot(name, sizes, ours, others[0], folder, arguments.rounds, peer_queries, agreement)
            elif name == "decode":
                made = decode(sizes, ours, others, folder, arguments.rounds)
            elif name == "train_step":
                made = train_step(sizes, ours, others, folder, arguments.rounds)
                if arguments.peak_tflops:
                    seconds = {"ours": made[0]["ours"], **{r["peer"]: r["theirs"] for r in made}}
                    text = flops.utilisation(sizes, seconds, arguments.peak_tflops)
                    write_text(output / "utilisation.md", text)
                    print(text)
                made += train_cost(sizes, ours, others[0], folder, arguments.rounds)
            elif name == "train_step_features":
                made = train_step_features(sizes, ours, others[0], folder, arguments.rounds)
            elif name == "memory":
                made = memory(sizes, ours, others, folder)
            else:
                made = image_loading.measure(sizes, folder, arguments.threads, arguments.rounds)
            for worker in workers.values():
                worker.close()
            rows = [row for row in rows if row["benchmark"] != name] + made
            ratios.write(output, rows, agreement, machine)
    print((output / "results.md").read_text())
    if agreement.different:
        sys.exit(f"outputs differ: {agreement.different}")


def _start(names: tuple[str, ...], folder: Path, peers: str, machine: Machine) -> dict[str, Worker]:
    pythons = {name: sys.executable if name in OURS else peers for name in names}
    return {name: Worker(name, python, MODULES[name], folder, machine) for name, python in pythons.items()}


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
        several = {"nargs": "+"} if isinstance(value, list) else {}
        parser.add_argument(f"--{name}", type=_positive, default=argparse.SUPPRESS, **several)  # type: ignore[arg-type]
    return parser.parse_args()


def _positive(text: str) -> int:
    """A whole number of at least 1; argparse names the argument in its error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def _positive_number(text: str) -> float:
    """A finite number above 0; argparse names the argument in its error."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text}")
    return number


if __name__ == "__main__":
    main()
