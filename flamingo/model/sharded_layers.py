"""Shards the layers of a language model for inference, by FSDP2. All other parameters are whole in each process."""

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from flamingo.model.layers import repeated_layers
from flamingo.model.weights_loading import is_quantised
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError


def shard_mesh(shard_size: int) -> DeviceMesh:
    """Returns the mesh of the processes that share one copy with this one: ``shard_size`` of consecutive numbers.

    Raises:
        UserError: If ``shard_size`` does not divide the number of processes.
    """
    state = processes()
    if state.num_processes % shard_size:
        raise UserError(f"shard_size is {shard_size}, which does not divide the {state.num_processes} processes")
    shape = (state.num_processes // shard_size, shard_size)
    return init_device_mesh(state.device.type, shape, mesh_dim_names=("replicate", "shard"))["shard"]


def shard_layers(language_model: nn.Module, mesh: DeviceMesh) -> None:
    """Shards the layers of a language model in place. A layer is gathered while it computes.

    Args:
        language_model: A causal language model, on any device, or on meta.
        mesh: The processes that share it, which must call its forward equally often
            (:class:`flamingo.inference.lockstep.Lockstep`).

    Raises:
        UserError: For quantised weights, which cannot be sharded.
    """
    if is_quantised(language_model):
        raise UserError("shard_size: the language model is quantised, and its weights cannot be sharded")
    # Weights keep their precision, as in one process. Inputs also contain positions and masks.
    arguments: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False)}
    sharded: set[nn.Parameter] = set()
    for layer in repeated_layers(language_model):
        sharded.update(layer.parameters())
        fully_shard(layer, reshard_after_forward=True, **arguments)
    # As the root the language model lets a layer be gathered while the one before it computes.
    others = set(language_model.parameters()) - sharded
    fully_shard(language_model, ignored_params=others, **arguments)
