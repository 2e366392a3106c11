"""Checks in 8 minutes that everything runs on one GPU, and measures how fast.

make gpu-check                                            on an H100 or H200, with the Python that it is given
python -m experiments.gpu_check --only machine training_step
python -m experiments.gpu_check --small --device cpu      a test of a minute

Needs no network, and no packages besides those of the library. Each part is a process with a time limit: see
experiments/gpu_check/check_parts.py. OUTPUT/report.json and OUTPUT/report.md are complete after each part; OUTPUT/logs
has the output of each part. The exit status is 1 if a part has failed.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.command import termination
from experiments.gpu_check.check_parts import FOLDERS, PARTS, TOTAL, Settings
from experiments.gpu_check.check_report import has_failed, write_report
from experiments.gpu_check.running import Result, Runner


def main() -> None:
    """Runs the parts of the command line."""
    arguments = _arguments()
    output: Path = arguments.output.resolve()
    for folder in FOLDERS:
        shutil.rmtree(output / folder, ignore_errors=True)
    settings = Settings(output, arguments.device, arguments.small)
    parts = [part for part in PARTS if part.name in arguments.only]

    def report(results: Sequence[Result], changed: Result) -> None:
        write_report(results, output)
        print(f"{changed.part}: {changed.status}", file=sys.stderr, flush=True)

    runner = Runner(parts, settings, arguments.seconds, report)
    with termination():
        runner.run()
    print((output / "report.md").read_text(encoding="utf-8"))
    if has_failed(runner.results):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--device", help="cuda, mps or cpu; by default the first of these that there is")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="of all parts together")
    return parser.parse_args()


if __name__ == "__main__":
    main()
