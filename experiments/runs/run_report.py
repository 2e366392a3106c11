"""Writes the pages of one run or of many."""

import glob
import logging
import re
from pathlib import Path

from experiments.cli.command import Job
from experiments.report import ReportConfig, check_config
from flamingo.report.comparison_files import write_comparison
from flamingo.report.page import write_report
from flamingo.report.variants import runs_below

log = logging.getLogger(__name__)


def run_report(config: ReportConfig) -> list[Path]:
    """Writes the files of a report.

    Returns:
        Their paths.

    Raises:
        UserError: Unless the config has either ``run`` or ``runs``.
    """
    check_config(config)
    if config.run is not None:
        return write_report(Path(config.run), config.title)
    assert config.runs is not None
    folders = []
    # Unlike Path.glob, it takes absolute patterns and skips hidden folders, such as that of a launcher.
    for path in sorted(glob.glob(config.runs)):  # noqa: PTH207
        if Path(path).is_dir():
            folders += runs_below(Path(path))
    output = config.output or _last_folder(config.runs) / "comparison"
    return write_comparison(folders, Path(output), config.baseline)


def _last_folder(pattern: str) -> Path:
    """Returns the last folder of a pattern before the first wildcard."""
    before_wildcard = re.split(r"[*?\[]", pattern)[0]
    return Path(before_wildcard + "x").parent


def run_job(job: Job[ReportConfig]) -> None:
    """Runs the command, and logs the paths of the files."""
    for path in run_report(job.load()):
        log.info("%s", path)
