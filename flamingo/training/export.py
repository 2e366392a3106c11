"""A model in any layout of its processes -> the whole weights of its checkpoint."""

from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from flamingo.model import BACKBONES
from flamingo.model.adapters import is_of_adapter
from flamingo.model.checkpoints import check_unchanged
from flamingo.utils.devices import HOST, processes
from flamingo.utils.shards import is_sharded, whole


def checkpoint_state(model: Any, include_backbones: bool) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the ``state_dict`` of ``save_pretrained`` in the main process, and an empty one in the others.

    The processes gather a sharded model one tensor at a time, so that the GPU of none has all of it. All of them call
    this together.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration`.
        include_backbones: Whether the checkpoint will contain the backbones.

    Raises:
        UserError: If the checkpoint leaves out backbones that have changed.
    """
    is_main_process = processes().is_main_process
    if not is_sharded(model):
        return dict(model.state_dict()) if is_main_process else {}
    if not include_backbones:
        check_unchanged(model.config, {part: getattr(model, part) for part in BACKBONES})
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # What modules share stays one tensor: tied embeddings, and the projections of some adapters, which are buffers.
    gathered: dict[Any, Tensor] = {}
    state = {}
    for name, value in model.state_dict().items():
        if not include_backbones and name.startswith(BACKBONES) and not is_of_adapter(name):
            continue
        identity = parameters.get(name, (value.data_ptr(), value.shape))
        if identity not in gathered:
            tensor = whole(value)
            gathered[identity] = tensor.to(HOST) if is_main_process else tensor.new_empty(0)
        if is_main_process:
            state[name] = gathered[identity]
    return state
