"""Checks that the folder of a run and its checkpoint exist."""

from pathlib import Path

from flamingo.utils.checks import folder
from flamingo.utils.errors import UserError


def check_run(run: str, key: str = "run") -> None:
    """Checks that a key names the folder of a run with a checkpoint.

    Raises:
        UserError: If it does not; the error begins with the key.
    """
    folder(key, run)
    if _holds_weights(Path(run) / "checkpoint"):
        return
    if (Path(run) / "state").is_dir():
        raise UserError(f"{key}={run} has no checkpoint yet: its training was stopped, and the same command resumes it")
    raise UserError(f"{key}={run} has no checkpoint: it is not the folder of a training")


def check_checkpoint(checkpoint: Path) -> None:
    """Checks that the key ``checkpoint`` names a folder with the weights of a checkpoint.

    Raises:
        UserError: If it does not.
    """
    folder("checkpoint", checkpoint)
    if not _holds_weights(checkpoint):
        raise UserError(f"checkpoint={checkpoint} is not a checkpoint: the folder has no *.safetensors")


def _holds_weights(checkpoint: Path) -> bool:
    return any(checkpoint.glob("*.safetensors"))
