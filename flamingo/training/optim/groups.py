"""The trained parameters of a model -> groups with their learning rates -> the optimizer that a config names."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from flamingo.training.optim import OPTIMIZERS, OptimizerConfig
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of

#: A group as torch takes it, with a ``name``.
ParameterGroup = dict[str, Any]

MATRICES, OTHERS, GATES = "matrices", "others", "gates"


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[ParameterGroup]:
    """Returns the trained parameters in up to three groups.

    ``matrices`` decay. ``gates`` have their own learning rate. ``others`` are biases, norms, embeddings, the latents
    and frame embeddings of the connector, and the rows of the new tokens.

    Raises:
        UserError: If no parameter of the model is trained.
    """
    members: dict[str, list[tuple[str, nn.Parameter]]] = {MATRICES: [], OTHERS: [], GATES: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_group_of(model, name, parameter)].append((name, parameter))
    gate_lr = config.lr if config.gate_lr is None else config.gate_lr
    groups: list[ParameterGroup] = [
        {"name": MATRICES, "params": members[MATRICES], "lr": config.lr, "weight_decay": config.weight_decay},
        {"name": OTHERS, "params": members[OTHERS], "lr": config.lr, "weight_decay": 0.0},
        {"name": GATES, "params": members[GATES], "lr": gate_lr, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("no parameter of the model trains: all have requires_grad=False")
    return groups


def _group_of(model: nn.Module, name: str, parameter: nn.Parameter) -> str:
    owner, _, attribute = name.rpartition(".")
    if attribute.endswith("_gate"):
        return GATES
    if attribute != "weight" or parameter.ndim < 2:
        return OTHERS
    is_embedding = isinstance(model.get_submodule(owner), nn.Embedding)
    return OTHERS if is_embedding else MATRICES


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Returns the optimizer of the config's kind over the trained parameters.

    Raises:
        UserError: If no parameter is trained, or if the optimizer does not fit the model.
    """
    return class_of(OPTIMIZERS, config.kind)(parameter_groups(model, config), config)


def check_shapes(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Raises UserError unless each tensor of a saved ``state`` is a scalar or has the shape of its parameter."""
    parts = getattr(optimizer, "parts", None)
    if parts is not None:
        for name, part in parts.items():
            check_shapes(part, state[name])
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, saved in state["state"].items():
        shape = parameters[number].shape
        for name, value in saved.items():
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape != shape:
                raise UserError(
                    f"optimizer state {name} of parameter {number} was {list(value.shape)}, is {list(shape)}"
                )
