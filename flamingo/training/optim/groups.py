"""The trained parameters of a model -> groups with their learning rates -> the optimizer that a config names."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from flamingo.model import BACKBONES
from flamingo.model.adapters import is_of_adapter
from flamingo.training.optim import OPTIMIZERS, OptimizerConfig
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of

#: A parameter group of torch, with a ``name``.
ParameterGroup = dict[str, Any]

MATRICES, KERNELS, OTHERS, GATES = "matrices", "kernels", "others", "gates"
#: The prefix of the names of the groups of a backbone's own weights.
_BACKBONE = "backbone_"
BACKBONE_MATRICES = f"{_BACKBONE}{MATRICES}"


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[ParameterGroup]:
    """Returns the trained parameters in groups.

    ``matrices`` and ``kernels`` of convolutions decay. ``gates`` have their own learning rate. ``others`` are biases,
    norms, embeddings, the latents and frame embeddings of the connector, the rows of the new tokens, and all of an
    adapter. A backbone that trains has groups ``backbone_matrices`` and so on, with their own learning rate.

    Raises:
        UserError: If no parameter of the model is trained.
    """
    members: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault(_group_of(model, name, parameter), []).append((name, parameter))
    gate_lr = config.lr if config.gate_lr is None else config.gate_lr
    backbone_lr = config.lr if config.backbone_lr is None else config.backbone_lr
    groups: list[ParameterGroup] = []
    for backbone, lr in (("", config.lr), (_BACKBONE, backbone_lr)):
        groups += [
            {"name": f"{backbone}{MATRICES}", "lr": lr, "weight_decay": config.weight_decay},
            {"name": f"{backbone}{KERNELS}", "lr": lr, "weight_decay": config.weight_decay},
            {"name": f"{backbone}{OTHERS}", "lr": lr, "weight_decay": 0.0},
        ]
    groups.append({"name": GATES, "lr": gate_lr, "weight_decay": 0.0})
    groups = [group | {"params": members[group["name"]]} for group in groups if group["name"] in members]
    if not groups:
        raise UserError("no parameter of the model trains: all have requires_grad=False")
    return groups


def _group_of(model: nn.Module, name: str, parameter: nn.Parameter) -> str:
    owner, _, attribute = name.rpartition(".")
    if attribute.endswith("_gate"):
        return GATES
    if is_of_adapter(name):
        return OTHERS
    backbone = _BACKBONE if name.split(".")[0] in BACKBONES else ""
    is_embedding = isinstance(model.get_submodule(owner), nn.Embedding)
    if attribute != "weight" or parameter.ndim < 2 or is_embedding:
        return f"{backbone}{OTHERS}"
    return f"{backbone}{MATRICES if parameter.ndim == 2 else KERNELS}"


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Returns the optimizer of the config's kind over the trained parameters.

    Raises:
        UserError: If no parameter is trained, or if the optimizer does not fit the model.
    """
    return class_of(OPTIMIZERS, config.kind)(parameter_groups(model, config), config)


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """Returns the optimizers that have the state of this one: its parts, or itself."""
    parts: dict[str, Optimizer] | None = getattr(optimizer, "parts", None)
    return [optimizer] if parts is None else list(parts.values())
