"""A model and its optimizer <-> the tensors of a state, by names that do not depend on how the model is distributed."""

from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from flamingo.training.optim.groups import parts_of
from flamingo.utils.devices import HOST
from flamingo.utils.errors import UserError

_PARAMETERS, _BUFFERS, _OPTIMIZER = "parameters.", "buffers.", "optimizer."


def model_tensors(model: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the trained parameters as ``parameters.NAME`` and the buffers of a checkpoint as ``buffers.NAME``.

    They share the model's memory. A sharded parameter is a ``DTensor``.
    """
    state = model.state_dict()  # FSDP2 then shards parameters again that are gathered
    tensors = {f"{_PARAMETERS}{name}": parameter.detach() for name, parameter in _trained(model).items()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in state.items():
        if name not in parameters:
            tensors[f"{_BUFFERS}{name}"] = value
    return tensors


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the tensors of the optimizer as ``optimizer.KIND.NAME``, such as ``optimizer.exp_avg.connector.latents``.

    They share the optimizer's memory. A moment of a sharded parameter is a ``DTensor``.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in _trained(model).items()}
    tensors = {}
    for part in parts_of(optimizer):
        for parameter, values in part.state.items():
            for kind, value in values.items():
                tensors[f"{_OPTIMIZER}{kind}.{names[parameter]}"] = value
    return tensors


def make_optimizer_tensors(
    model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Shaped[Tensor, "..."]]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Gives the optimizer tensors without values, into which a state is loaded, distributed as its parameters are.

    Args:
        model: The model.
        optimizer: Its optimizer.
        saved: The tensors of the state, on any device.

    Returns:
        The tensors of the optimizer, as :func:`optimizer_tensors` names them.

    Raises:
        UserError: If a tensor is neither a number nor of the shape of its parameter, or if only some parameters have
            them. The optimizer is then as before.
    """
    trained = _trained(model)
    of_parameters: dict[str, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        if not key.startswith(_OPTIMIZER):
            continue
        kind, name = key.removeprefix(_OPTIMIZER).split(".", 1)
        parameter = trained[name]
        if tensor.ndim == 0:
            made = torch.empty((), dtype=tensor.dtype, device=parameter.device)
        elif tensor.shape == parameter.shape:
            made = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
        else:
            raise UserError(f"optimizer state {kind} of {name} was {list(tensor.shape)}, is {list(parameter.shape)}")
        of_parameters.setdefault(name, {})[kind] = made
    missing = trained.keys() - of_parameters.keys()
    if of_parameters and missing:
        raise UserError(f"the state has no optimizer state of {', '.join(sorted(missing))}")
    names = {parameter: name for name, parameter in trained.items()}
    for part in parts_of(optimizer):
        for group in part.param_groups:
            for parameter in group["params"]:
                part.state[parameter] = of_parameters.get(names[parameter], {})
    return optimizer_tensors(model, optimizer)


def shapes_of(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, str]:
    """Returns the dtype and the shape of each parameter and buffer, as text."""
    shapes = {}
    for key, tensor in tensors.items():
        if not key.startswith(_OPTIMIZER):
            dtype = str(tensor.dtype).removeprefix("torch.")
            shapes[key] = f"{dtype} {list(tensor.shape)}"
    return shapes


def host_copy(
    model: nn.Module, optimizer: Optimizer, process: int, num_processes: int
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns copies of what this process writes of a state, on the CPU. The copies are complete on return.

    Of a ``DTensor`` each process writes its part. Tensors that all processes have are dealt to them by size. Buffers
    are the main process's: statistics of batches differ between processes.
    """
    tensors = model_tensors(model) | optimizer_tensors(model, optimizer)
    loads = [0] * num_processes
    copies = {}
    for key, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            owner = process
        elif key.startswith(_BUFFERS):
            owner = 0
        else:
            owner = loads.index(min(loads))
            loads[owner] += tensor.numel()
        if owner == process:
            copies[key] = tensor.detach().to(HOST, copy=True)
    return copies


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
