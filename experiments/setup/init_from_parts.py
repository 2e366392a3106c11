"""The checkpoint of model.init_from: its folder, and the sections of its config that a training takes."""

from pathlib import Path

from flamingo.model.connectors import CONNECTORS
from flamingo.model.fusion import FUSIONS
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds

#: Sections of the model's config in the config.json of a checkpoint, with their kinds.
SECTIONS: dict[str, Kinds | None] = {"vision_features": None, "connector": CONNECTORS, "fusion": FUSIONS}
#: Fields that regularise a training. They are free: a checkpoint does not set them.
FREE = ("dropout",)


def checkpoint_folder(init_from: str) -> Path:
    """Returns the folder of the checkpoint of ``model.init_from``: that of a run, or the folder itself.

    Raises:
        UserError: If there is no checkpoint.
    """
    for folder in (Path(init_from) / "checkpoint", Path(init_from)):
        if (folder / "config.json").is_file():
            return folder
    if (Path(init_from) / "state").is_dir():
        raise UserError(f"model.init_from: the run in {init_from} has no checkpoint yet: its training is not finished")
    raise UserError(f"model.init_from: there is no checkpoint in {init_from}")
