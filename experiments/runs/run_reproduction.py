"""Evaluates a published checkpoint, and prints published figures beside ours."""

import logging
from pathlib import Path

from experiments.cli.command import Job
from experiments.evaluate import folders
from experiments.reproduce import ReproduceConfig
from experiments.runs.run_evaluation import carry_out
from experiments.setup.evaluation_plan import plan
from experiments.setup.tiny_checkpoints import write_tiny_checkpoint
from experiments.setup.tiny_data import write_tiny_data
from flamingo.evaluation.published import figures_table, published_figures
from flamingo.results import read_scores
from flamingo.utils.devices import processes
from flamingo.utils.memory import keep_memory

log = logging.getLogger(__name__)


def run_reproduction(config: ReproduceConfig) -> None:
    """Evaluates a checkpoint by the protocol of its authors, and logs the table.

    Raises:
        UserError: If the model has no published figures of the task, and as in an evaluation.
    """
    checkpoint, output = folders(config)
    if config.dry_run:
        write_tiny_data(output / "data")
        if not checkpoint.exists():
            write_tiny_checkpoint(config.published, checkpoint.parent)
    planned = plan(config)
    figures = published_figures(config.published, planned.task.name)
    carry_out(planned)
    if not processes().is_main_process:
        return
    table = figures_table(figures, read_scores(Path(output) / "scores.json"))
    log.info("%s on %s, protocol %s:\n%s", config.published, planned.task.name, config.protocol["name"], table)
    if config.dry_run:
        log.info("dry run: ours are scores of a random checkpoint on drawn data")


def run_job(job: Job[ReproduceConfig]) -> None:
    """Runs the command."""
    keep_memory()
    run_reproduction(job.load())
