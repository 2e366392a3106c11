"""Compiles forward passes with ``torch.compile``: of each layer of the backbones and the connector, and gated block.

A layer's ``forward`` is compiled, not its call: hooks, checkpoints and collectives of FSDP2 stay outside the graphs.
Layers of one class share their graphs. Compilation comes after adapters have been added and parts chosen to train.
"""

from collections.abc import Callable, Iterator
from functools import cache, wraps
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.layers import repeated_layers
from flamingo.model.vision import transformer_blocks
from flamingo.utils.errors import UserError


class CompiledModule:
    """Marks the classes whose forward pass is compiled."""


def compile_layers(model: nn.Module, backend: str | Callable = "inductor") -> None:
    """Compiles the layers of a model in place. Names and values of parameters stay.

    Layers of the language model, gated blocks and the connector use their graphs while gradients are computed, and
    nothing else: generation has caches, whose shapes change with each token. Layers of the vision encoder, which is
    frozen, always use them.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration`, or a model of which some part has repeated layers.
        backend: That of ``torch.compile``.

    Raises:
        UserError: If there is no layer to compile, or no compiler.
    """
    if backend == "inductor":
        _check_compiler()
    forget_graphs()
    modules = list(_modules(model))
    if not modules:
        raise UserError(f"training.compile=true finds no repeated layers in a {type(model).__name__}")
    for module, always in modules:
        if not isinstance(module, CompiledModule):
            plain_class: Any = type(module)
            module.__class__ = _compiled_class(plain_class, backend, always)


def is_compiled(model: Any) -> bool:
    """Returns whether layers of a model are compiled."""
    return any(isinstance(module, CompiledModule) for module in model.modules())


def forget_graphs() -> None:
    """Drops all graphs of this process. Those of parameters that trained, or did not, would still be used otherwise."""
    torch.compiler.reset()


def _modules(model: Any) -> Iterator[tuple[nn.Module, bool]]:
    """Yields the modules to compile, and whether they use their graphs also while no gradients are computed."""
    vision_model = getattr(model, "vision_model", None)
    if vision_model is not None:
        for block in transformer_blocks(vision_model) or []:
            yield block, True
    for text_model in (model, getattr(model, "language_model", None), getattr(model, "text_model", None)):
        if isinstance(text_model, PreTrainedModel) and hasattr(text_model.config, "num_hidden_layers"):
            for layer in repeated_layers(text_model):
                yield layer, False
    fusion, connector = getattr(model, "fusion", None), getattr(model, "connector", None)
    trained_modules: list[nn.Module] = []
    if fusion is not None:
        trained_modules += _checkpointed_layers(fusion)
    if connector is not None:
        trained_modules += _checkpointed_layers(connector) or [connector]
    for module in trained_modules:
        yield module, False


def _checkpointed_layers(part: nn.Module) -> list[nn.Module]:
    """Returns the layers of a trained part that can recompute their activations, such as gated blocks."""
    return [module for module in part.modules() if isinstance(module, GradientCheckpointingLayer)]


@cache
def _compiled_class(plain_class: type, backend: str | Callable, always: bool) -> Any:
    """Returns a class whose forward pass is compiled. A class that checkpoints wraps it, so that graphs are inside."""
    plain: Callable = _forward_inside_checkpoint(plain_class)
    compiled = torch.compile(plain, backend=backend)

    @wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        uses_graph = always or torch.is_grad_enabled()
        return compiled(self, *args, **kwargs) if uses_graph else plain(self, *args, **kwargs)

    attributes = {"forward": forward, "__module__": plain_class.__module__}
    return type(f"Compiled{plain_class.__name__}", (plain_class, CompiledModule), attributes)


def _forward_inside_checkpoint(plain_class: Any) -> Callable:
    """Returns the forward pass of a class, without the wrapper by which transformers checkpoints its layers.

    The wrapper is one function for all classes. Its graphs would count together towards the limit of recompilations.
    """
    wraps_forward = "__init_subclass__" in vars(GradientCheckpointingLayer)
    if issubclass(plain_class, GradientCheckpointingLayer) and wraps_forward:
        return plain_class.forward.__wrapped__
    return plain_class.forward


def _check_compiler() -> None:
    """Checks that a compiler can be called: inductor writes C++ for a CPU, and the launchers of Triton's kernels in C.

    Raises:
        UserError: If there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError("training.compile=true needs a C++ compiler on this machine, such as g++") from error
