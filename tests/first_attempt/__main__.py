"""Tries the first attempt of a new user with each data set, encoder and language model: python -m tests.first_attempt.

python -m tests.first_attempt /tmp/first --language FOLDER/NAME.gguf --steps 30
python -m tests.first_attempt /tmp/first --only 'twelve-.*-random'

Exits with status 1 unless each attempt ends well, its loss falls, it makes captions, and the dry run's estimates of
time and memory are within 30%.
"""

import argparse
import re
import sys
from itertools import product
from pathlib import Path

from tests.first_attempt.attempt import Combination, Outcome, attempt
from tests.first_attempt.backbones import save_encoders, save_language_model
from tests.first_attempt.data_sets import DATA_SETS


def main() -> None:
    """Runs the matrix, and prints a line for each attempt."""
    parser = argparse.ArgumentParser(prog="python -m tests.first_attempt", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for data, backbones and runs")
    parser.add_argument("--language", help="a pretrained language model, besides the random one")
    parser.add_argument("--steps", type=int, default=30, help="training steps of each attempt")
    parser.add_argument("--python", default=sys.executable, help="the Python whose environment has the package")
    parser.add_argument("--only", default=".*", help="a pattern of DATA-ENCODER-LANGUAGE, such as twelve-clip-random")
    arguments = parser.parse_args()
    combinations = _combinations(arguments.folder, arguments.language, arguments.steps)
    failed = 0
    for name, combination in combinations.items():
        if not re.fullmatch(arguments.only, name):
            continue
        outcome = attempt(arguments.python, arguments.folder / "attempts" / name, combination)
        failed += bool(outcome.problems())
        print(_line(name, outcome), flush=True)
    sys.exit(failed > 0)


def _combinations(folder: Path, language: str | None, steps: int) -> dict[str, Combination]:
    """Makes the data sets and the backbones; returns all combinations by name."""
    folder.mkdir(parents=True)
    for name, write in DATA_SETS.items():
        (folder / "data" / name).mkdir(parents=True)
        write(folder / "data" / name)
    encoders = save_encoders(folder / "encoders")
    languages = {"random": str(save_language_model(folder / "language"))}
    if language is not None:
        languages["pretrained"] = language
    combinations = {}
    for data, encoder, kind in product(DATA_SETS, encoders, languages):
        combination = Combination(folder / "data" / data, str(encoders[encoder]), languages[kind], steps)
        combinations[f"{data}-{encoder}-{kind}"] = combination
    return combinations


def _line(name: str, outcome: Outcome) -> str:
    problems = outcome.problems()
    if outcome.error:
        return f"{name}: {outcome.error}"
    result = "; ".join(problems) or "well"
    return (
        f"{name}: {result}; loss {outcome.first_loss:.2f} to {outcome.last_loss:.2f}; {outcome.seconds:.0f} s "
        f"(estimated {outcome.estimated_seconds:.0f}); {outcome.memory:.2f} GB (estimated "
        f"{outcome.estimated_memory:.2f}); {outcome.captions} captions"
    )


if __name__ == "__main__":
    main()
