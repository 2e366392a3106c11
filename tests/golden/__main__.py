"""Records golden values, or compares this commit with them.

python -m tests.golden record [CASE ...]      write values.json, of all cases or of these
python -m tests.golden compare [CASE ...]     exit with 1 unless all values are equal

Values are exact between two commits on one machine. On another machine, record at the commit that last changed
values.json, and compare at the commit in question.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from tests.golden.cases import CASES, compute
from tests.golden.values import differences, read_values, write_values


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of: {', '.join(CASES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - CASES.keys():
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    values = compute(arguments.cases or list(CASES))
    recorded = read_values()
    if arguments.action == "record":
        write_values(recorded | values)
        return
    lines = [line for case in values for line in differences(case, recorded[case], values[case])]
    print("\n".join(lines) or f"{len(values)} cases are equal")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
