"""A finished run that trains longer: its checkpoint and its scores move to a folder that can be evaluated."""

import logging
import shutil

from flamingo.utils.errors import UserError
from flamingo.utils.io import file_errors
from flamingo.utils.run_folder import Run, read_config, value_at

log = logging.getLogger(__name__)

#: The key that may be larger than that of the finished run.
STEPS = "training.steps"
#: Copied, since the training adds to them or writes them again; and moved, the checkpoint last: without one the run is
#: not finished, so that a kill before that is followed by another attempt.
_COPIED = ("config.yaml", "history.jsonl", "overrides.yaml")
_MOVED = (
    "evaluate-*.yaml",
    "images-*.json",
    "scores.json",
    "differences.json",
    "predictions.jsonl",
    "pictures",
    "report.html",
    "checkpoint",
)


def trains_longer(run: Run, steps: int) -> bool:
    """Returns whether a folder holds a finished run of fewer steps, from whose state a training continues.

    Raises:
        UserError: If there is no such state.
    """
    if run.is_new or not (run.output / "checkpoint").exists():
        return False
    earlier = value_at(read_config(run.output / run.files.config_file), STEPS)
    if earlier is None or earlier >= steps:
        return False
    if not any(run.output.glob("state/step-*[0-9]")):
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
