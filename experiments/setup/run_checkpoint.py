"""The folder of a run, and the checkpoint in it: the errors where one of them is missing."""

from pathlib import Path

from flamingo.utils.checks import folder
from flamingo.utils.errors import UserError


def check_run(run: str) -> None:
    """Raise UserError unless the key ``run`` names the folder of a run with a checkpoint."""
    folder("run", run)
    if _holds_weights(Path(run) / "checkpoint"):
        return
    if (Path(run) / "state").is_dir():
        raise UserError(f"run={run} has no checkpoint yet: its training was stopped; start it again to finish it")
    raise UserError(f"run={run} has no checkpoint: it is no folder that a training has left")


def check_checkpoint(checkpoint: Path) -> None:
    """Raise UserError unless the key ``checkpoint`` names a folder with the weights of a checkpoint."""
    folder("checkpoint", checkpoint)
    if not _holds_weights(checkpoint):
        raise UserError(f"checkpoint={checkpoint} is no checkpoint: the folder has no *.safetensors")


def _holds_weights(checkpoint: Path) -> bool:
    return any(checkpoint.glob("*.safetensors"))
