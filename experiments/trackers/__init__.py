"""Trackers: records and samples of a training -> a program that shows them."""

from importlib.util import find_spec

from flamingo.utils.checks import one_of
from flamingo.utils.errors import UserError

#: The module and class of each tracker.
TRACKERS = {
    "wandb": "experiments.trackers.weights_and_biases:WandbRun",
    "tensorboard": "experiments.trackers.tensor_board:TensorBoardRun",
}
#: The value of ``tracker`` for none of them.
NONE = "none"


def check_tracker(key: str, name: str) -> None:
    """Checks that a tracker is known and installed.

    Args:
        key: The key of the config.
        name: Its value.

    Raises:
        UserError: With the key, otherwise.
    """
    one_of(key, name, (*TRACKERS, NONE))
    if name != NONE and find_spec(name) is None:
        raise UserError(f"{key}={name} needs the package {name}: pip install 'flamingo[{name}]'")
