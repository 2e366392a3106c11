"""Makes pages of results.

python -m experiments.report run=outputs/demo                   few_shot.png and report.html of one run, in its folder
python -m experiments.report runs='outputs/ablations/*'         comparison.md, .csv, .html and .png of many runs in
                                                                their parent folder: means over seeds, differences
"""

import glob
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from experiments.command import Job, command
from flamingo.report.comparison import write_comparison
from flamingo.report.page import write_report
from flamingo.report.variants import runs_below
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class ReportConfig:
    """One run, or many."""

    run: str | None = None
    #: Of the run's page; null: the folder's name.
    title: str | None = None
    #: A pattern of folders, in quotes.
    runs: str | None = None
    #: The variant that the others are compared with; null: the variant "baseline", or the first one.
    baseline: str | None = None
    #: The comparison's files, without suffix; null: "comparison" in the folder that the pattern begins with.
    output: str | None = None


def run_report(config: ReportConfig) -> list[Path]:
    """Returns the paths of the files that are written.

    Raises:
        UserError: Unless the config has either ``run`` or ``runs``.
    """
    if config.run is not None and config.runs is None:
        return write_report(Path(config.run), config.title)
    if config.runs is None or config.run is not None:
        raise UserError("the config needs either run=FOLDER, or runs='FOLDER/*' for many")
    folders = []
    # Unlike Path.glob it takes absolute patterns, and skips hidden folders such as a launcher's.
    for path in sorted(glob.glob(config.runs)):  # noqa: PTH207
        if Path(path).is_dir():
            folders += runs_below(Path(path))
    output = config.output or _last_folder(config.runs) / "comparison"
    return write_comparison(folders, Path(output), config.baseline)


def _last_folder(pattern: str) -> Path:
    """Returns the last folder of a pattern before the first wildcard."""
    before_wildcard = re.split(r"[*?\[]", pattern)[0]
    return Path(before_wildcard + "x").parent


@command("report", ReportConfig)
def main(job: Job[ReportConfig]) -> None:
    for path in run_report(job.load()):
        log.info("%s", path)


if __name__ == "__main__":
    main()
