"""Which modules of a model FSDP2 shards, and the mesh of the processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from flamingo.model.layers import repeated_layers
from flamingo.model.vision import transformer_blocks
from flamingo.model.weights_loading import is_quantised
from flamingo.training import ParallelConfig
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError


def make_mesh(config: ParallelConfig) -> DeviceMesh:
    """Returns the mesh of all processes, with the axis ``shard``, and for hsdp ``replicate`` before it.

    Raises:
        UserError: If ``shard_size`` does not divide the number of processes.
    """
    state = processes()
    device_type, num_processes = state.device.type, state.num_processes
    if config.kind != "hsdp":
        return init_device_mesh(device_type, (num_processes,), mesh_dim_names=("shard",))
    shard_size = config.shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    if num_processes % shard_size:
        raise UserError(f"parallel.shard_size is {shard_size}, which does not divide the {num_processes} processes")
    shape = (num_processes // shard_size, shard_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def shard_model(model: nn.Module, mesh: DeviceMesh, config: ParallelConfig, precision: str = "fp32") -> None:
    """Shards a model in place. Its adapter has been added before. The model may be on the meta device.

    Each frozen layer of the language model, each gated block and the connector is gathered by itself while it
    computes. So are the projections of a gated block to keys and values, which compute before the block does. The
    embeddings, the final norm, the output head, which may be tied, and the rows of new tokens form one group, that of
    the model itself.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration`.
        mesh: The processes, from :func:`make_mesh`.
        config: The engine.
        precision: "bf16" gathers modules that train as a whole in bfloat16, and adds their gradients in fp32. Their
            shards stay in fp32. All other parameters keep their own dtype; autocast may convert them.

    Raises:
        UserError: If the model has other parts than a Flamingo.
    """
    parts: Any = model
    if not hasattr(parts, "language_model"):
        raise UserError(f"parallel.kind={config.kind} shards a Flamingo, but this model is a {type(model).__name__}")
    arguments: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": config.reshard_after_forward}
    for module in _groups(parts, config):
        _shard(module, precision, arguments)
    fully_shard(model, mesh=mesh, mp_policy=_policy(model, "fp32"), ignored_params=_replicated(parts, config))


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """Returns the modules that are gathered each by itself, the model first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Yields with all weights of a model in the memory of each process, which may call it as often as it likes.

    All processes enter and leave the block together. It computes no gradients. A model that is not sharded stays as it
    is.
    """
    modules: list[Any] = sharded_modules(model)
    resharding = [_is_resharded(module) for module in modules]
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
        # transformers would let all processes generate equally many tokens.
        module._is_fsdp_managed_module = False
    try:
        yield
    finally:
        for module, is_resharded in zip(modules, resharding, strict=True):
            module.reshard()
            module.set_reshard_after_forward(is_resharded, recurse=False)
            module._is_fsdp_managed_module = True


def _is_resharded(module: FSDPModule) -> bool:
    """Returns whether the module is sharded again after its forward pass. The model itself is not."""
    return all(group._reshard_after_forward for group in module._get_fsdp_state()._fsdp_param_groups)


def shards_encoder(model: Any, config: ParallelConfig) -> bool:
    """Returns whether the vision encoder is sharded: by its key, or since all trained parameters are."""
    trains = any(parameter.requires_grad for parameter in model.vision_model.parameters())
    return config.shard_vision_model or trains


def _groups(model: Any, config: ParallelConfig) -> Iterator[nn.Module]:
    """Yields the modules that are gathered each by itself, inner ones first."""
    if not is_quantised(model.language_model):
        yield from repeated_layers(model.language_model)
    for block in _gated_blocks(model):
        yield from _projections_of_images(block)
        yield block
    yield model.connector
    if shards_encoder(model, config):
        # Features are taken between the blocks, so that the encoder as a whole has no output with a gradient. What lies
        # outside its blocks is in the group of the model.
        yield from transformer_blocks(model.vision_model) or []


def _replicated(model: Any, config: ParallelConfig) -> set[nn.Parameter]:
    """Returns the weights that each process has as a whole. All of them are frozen.

    Quantised weights cannot be sharded. The adapter of a quantised language model is in the group of the model.
    """
    backbones = []
    if is_quantised(model.language_model):
        backbones.append(model.language_model)
    if not shards_encoder(model, config):
        backbones.append(model.vision_model)
    weights: set[nn.Parameter] = set()
    for backbone in backbones:
        weights.update(parameter for parameter in backbone.parameters() if not parameter.requires_grad)
    return weights


def _gated_blocks(model: Any) -> list[Any]:
    return list(getattr(model.fusion, "blocks", nn.ModuleDict()).values())


def _projections_of_images(block: Any) -> list[nn.Module]:
    """Returns the modules of a gated block that compute keys and values, and that have parameters."""
    modules = (block.attention.to_k, block.attention.to_v, block.attention.k_norm)
    return [module for module in modules if next(module.parameters(), None) is not None]


def _shard(module: nn.Module, precision: str, arguments: dict[str, Any]) -> None:
    """Shards a module. Its own hooks stay the first ones.

    The hook of a language-model layer computes a gated block. It runs before the layer is gathered, so that the two
    are not in memory together.
    """
    own_hooks = list(module._forward_pre_hooks)
    fully_shard(module, mp_policy=_policy(module, precision), **arguments)
    for hook in reversed(own_hooks):
        module._forward_pre_hooks.move_to_end(hook, last=False)  # type: ignore[attr-defined]  # an OrderedDict


def _policy(module: nn.Module, precision: str) -> MixedPrecisionPolicy:
    """Returns the dtypes of a module.

    The bfloat16 copy of a sharded weight that autocast makes would stay in memory until the backward pass. Inputs are
    converted only for weights in bfloat16: those of a layer contain positions and masks.
    """
    trains = all(parameter.requires_grad for parameter in module.parameters())
    if precision == "bf16" and trains:
        return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=True)
    return MixedPrecisionPolicy(cast_forward_inputs=False)
