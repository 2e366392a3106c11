"""Tries the first attempt of a new user with each data set, encoder and language model: python -m tests.first_attempt.

python -m tests.first_attempt /tmp/first --language FOLDER/NAME.gguf --steps 20
python -m tests.first_attempt /tmp/first --only 'twelve-.*-random'

The commands are those of the wheel, which is built and installed into FOLDER/environment, unless --python names an
environment that has it. Each attempt is a dry run and a training, with the four keys, the number of steps and nothing
else, an evaluation at 0 and 2 shots, and captions of new images. Started again with the same folder, the command makes
the attempts that are missing. To repeat an attempt, remove its folder below FOLDER/attempts.

Exits with status 1 unless all commands of each attempt exit with 0, the loss falls (the mean of the first three logged
losses against that of the last three), each setting has scores, each image has a caption, and the dry run's estimates
of the training's time and peak memory are within 30% of the measured ones.
"""

import argparse
import re
import sys
from itertools import product
from pathlib import Path

from tests.first_attempt import table
from tests.first_attempt.attempt import Combination, Outcome, attempt
from tests.first_attempt.backbones import save_encoders, save_language_model
from tests.first_attempt.data_sets import DATA_SETS, new_images
from tests.helpers.wheel import ROOT, build_wheel, install, new_environment


def main() -> None:
    """Runs the matrix, and prints a line for each attempt."""
    parser = argparse.ArgumentParser(prog="python -m tests.first_attempt", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder for data, backbones and runs")
    parser.add_argument("--language", help="a pretrained language model, besides the random one")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each attempt")
    parser.add_argument("--python", type=Path, help="the Python of an environment that has the package")
    parser.add_argument("--only", default=".*", help="a pattern of DATA-ENCODER-LANGUAGE, such as twelve-clip-random")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    python = arguments.python or _installed(folder)
    combinations = _combinations(folder, arguments.language, arguments.steps)
    outcomes: dict[str, Outcome] = {}
    print(table.HEADER, flush=True)
    for name, combination in combinations.items():
        if re.fullmatch(arguments.only, name):
            outcomes[name] = attempt(python.with_name("flamingo"), folder / "attempts" / name, combination)
            print(table.line(name, outcomes[name]), flush=True)
    print(table.summary(outcomes))
    sys.exit(any(outcome.failed_conditions() for outcome in outcomes.values()))


def _installed(folder: Path) -> Path:
    """Returns the Python of an environment with the wheel, what it requires, and no other package."""
    environment = folder / "environment"
    if not (environment / "bin" / "flamingo").exists():
        wheel = build_wheel(folder / "built")
        options = ["--constraint", ROOT / "constraints.txt"]
        install(new_environment(environment), f"{wheel}[experiments,gguf,parquet]", options)
    return environment / "bin" / "python"


def _combinations(folder: Path, language: str | None, steps: int) -> dict[str, Combination]:
    """Makes the data sets and the backbones that are not there; returns all combinations by name."""
    for name, write in {**DATA_SETS, "new": new_images}.items():
        if not (folder / "data" / name).exists():
            (folder / "data" / name).mkdir(parents=True)
            write(folder / "data" / name)
    encoders = save_encoders(folder / "encoders")
    languages = {"random": str(save_language_model(folder / "language"))}
    if language is not None:
        languages["pretrained"] = str(Path(language).absolute())
    combinations = {}
    for data, encoder, kind in product(DATA_SETS, encoders, languages):
        vision = str(encoders[encoder])
        combination = Combination(folder / "data" / data, folder / "data" / "new", vision, languages[kind], steps)
        combinations[f"{data}-{encoder}-{kind}"] = combination
    return combinations


if __name__ == "__main__":
    main()
