"""Makes pages of results.

python -m experiments.report run=outputs/demo                   few_shot.png and report.html of one run, in its folder
python -m experiments.report runs='outputs/ablations/*'         comparison.md, .csv, .html and .png of many runs, beside
                                                                them: mean over seeds, difference to a baseline
"""

import glob
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from experiments.configs import plain
from experiments.schema import command
from flamingo.report.comparison import write_comparison
from flamingo.report.page import write_report
from flamingo.report.runs import runs_below
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class ReportConfig:
    """One run, and what its page is called (by default, what the folder is); or many."""

    run: str | None = None
    title: str | None = None
    #: A pattern of folders, in quotes.
    runs: str | None = None
    #: The variant that the others are compared with; null: the one called "baseline", or else the first.
    baseline: str | None = None
    #: Where the comparison goes, without an ending; null: "comparison" in the folder that the pattern begins with.
    output: str | None = None


ConfigStore.instance().store("report_schema", ReportConfig)


def run_report(config: dict[str, Any]) -> list[Path]:
    """The paths of what is written. Raises UserError unless the config says either ``run`` or ``runs``."""
    if (config["run"] is None) == (config["runs"] is None):
        raise UserError("what is to be reported? Say run=FOLDER, or runs='FOLDER/*' for many")
    if config["run"] is not None:
        return write_report(Path(config["run"]), config["title"])
    # Unlike Path.glob it takes absolute patterns, and leaves hidden folders alone, such as a launcher's own.
    found = sorted(glob.glob(config["runs"]))  # noqa: PTH207
    folders = [folder for path in found if Path(path).is_dir() for folder in runs_below(Path(path))]
    # Up to the last folder that has no wildcard in its name.
    beginning = Path(re.split(r"[*?\[]", config["runs"])[0] + "x").parent
    return write_comparison(folders, Path(config["output"] or beginning / "comparison"), config["baseline"])


@command("report")
def main(config: DictConfig) -> None:
    for path in run_report(plain(config)):
        log.info("%s", path)


if __name__ == "__main__":
    main()
