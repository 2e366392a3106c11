"""Writes the pages of one run or of many."""

import logging
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.command import Job
from experiments.report import ReportConfig, check_config
from experiments.setup.run_lists import common_folder, run_folders
from flamingo.evaluation.run_differences import run_differences
from flamingo.report.comparison_files import write_comparison
from flamingo.report.page import write_report
from flamingo.report.variants import Variant, read_variants

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
    output = config.output or common_folder(config.runs) / "comparison"
    variants, problems = read_variants(run_folders(config.runs), config.baseline)
    runs = _runs_with_predictions(variants, problems)
    differences = run_differences(runs, variants[0].name) if variants[0].name in runs else []
    return write_comparison(variants, problems, differences, Path(output))


def _runs_with_predictions(variants: Sequence[Variant], problems: dict[str, str]) -> dict[str, dict[int, Path]]:
    """Returns for each variant the folders of its runs by seed; a run without predictions is added to the problems."""
    runs: dict[str, dict[int, Path]] = {}
    for variant in variants:
        for run in variant.runs:
            if (run.folder / "predictions.jsonl").is_file():
                runs.setdefault(variant.name, {})[run.seed] = run.folder
                continue
            reasons = [problems[str(run.folder)]] if str(run.folder) in problems else []
            reasons.append("not in the paired differences: there is no predictions.jsonl")
            problems[str(run.folder)] = "; ".join(reasons)
    return runs


def run_job(job: Job[ReportConfig]) -> None:
    """Runs the command, and logs the paths of the files."""
    for path in run_report(job.load()):
        log.info("%s", path)
