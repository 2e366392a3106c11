"""Longer training of a finished run: its checkpoint and scores move to a folder that can be evaluated."""

import logging
import shutil

from flamingo.utils.errors import UserError
from flamingo.utils.io import file_errors
from flamingo.utils.run_folder import Run, read_config, value_at

log = logging.getLogger(__name__)

#: The key that may be larger than in the finished run.
STEPS = "training.steps"
#: Files to copy, since the training changes them, and files to move. The checkpoint moves last: while it is there the
#: run counts as finished, so a kill before that only repeats the move.
_COPIED = ("config.yaml", "history.jsonl", "overrides.yaml")
_MOVED = (
    "evaluate-*.yaml",
    "images-*.json",
    "scores.json",
    "differences.json",
    "in_context.json",
    "predictions.jsonl",
    "pictures",
    "report.html",
    "checkpoint",
)


def trains_longer(run: Run, steps: int) -> bool:
    """Returns whether a folder holds a finished run of fewer steps that training continues.

    Raises:
        UserError: If the run has no state to continue from.
    """
    if run.is_new or not (run.output / "checkpoint").exists():
        return False
    earlier = value_at(read_config(run.output / run.files.config_file), STEPS)
    if earlier is None or earlier >= steps:
        return False
    if not any(run.output.glob("state/step-*/complete.json")):
        raise UserError(f"{STEPS} was {earlier}, is {steps}, but {run.output} has no state to continue from")
    return True


def keep_finished(run: Run) -> None:
    """Moves the checkpoint of the shorter run and the results of its evaluations to ``OUTPUT/STEPS-steps``."""
    steps = value_at(read_config(run.output / run.files.config_file), STEPS)
    kept = run.output / f"{steps}-steps"
    with file_errors(kept):
        kept.mkdir(exist_ok=True)
        for name in _COPIED:
            if (run.output / name).exists():
                shutil.copy(run.output / name, kept / name)
        for pattern in _MOVED:
            for path in sorted(run.output.glob(pattern)):
                path.rename(kept / path.name)
    log.info("the run of %d steps trains longer: its checkpoint and its scores are now in %s", steps, kept)
