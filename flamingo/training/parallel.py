"""A model -> the same model on several processes: whole in each (DDP), or sharded (FSDP2, HSDP)."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from flamingo.data.collate import Batch
from flamingo.model.sharded_loading import load_deferred
from flamingo.training import ParallelConfig
from flamingo.training.masked_image import with_masked_image
from flamingo.training.sharding import make_mesh, shard_model, sharded_modules
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


class Parallel:
    """A model as the processes of a training share it. This class is for a single process.

    In every engine gradients are summed over the processes, not averaged.
    """

    def __init__(self, model: nn.Module) -> None:
        #: The model itself, whose parameters the optimizer changes.
        self.bare = model
        #: What a loss is called with.
        self.model = model

    def synchronised(self, is_last: bool) -> AbstractContextManager[None]:
        """Returns the context of a forward and backward pass.

        Args:
            is_last: Whether the batch is the last one of its update, after which the processes have the same gradients.
        """
        return nullcontext()

    def completed(self, batch: Batch) -> Batch:
        """Returns the batch with which every process calls the same modules."""
        return batch

    def joined(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Returns the loss, on which every trained parameter depends if the engine waits for all of them."""
        return loss

    def clip(self, parameters: Sequence[nn.Parameter], max_grad_norm: float) -> Float[Tensor, ""]:
        """Scales the gradients down to a norm of at most ``max_grad_norm``.

        Returns:
            The norm before, equal in all processes.
        """
        return nn.utils.clip_grad_norm_(parameters, max_grad_norm)

    def summed(self, value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Returns the sum over the processes of a tensor on the device. NCCL adds on the devices: no host waits."""
        if processes().num_processes > 1:
            distributed.all_reduce(value)
        return value


class Replicated(Parallel):
    """A model that each process has as a whole, by DDP."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.model = DistributedDataParallel(model)
        # By default DDP divides gradients by the number of processes.
        self.model.register_comm_hook(None, _sum)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def synchronised(self, is_last: bool) -> AbstractContextManager[None]:
        """Returns a context in which gradients are exchanged after the last batch only."""
        return nullcontext() if is_last else self.model.no_sync()

    def joined(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Returns the loss plus nothing of each trained parameter.

        DDP waits for every parameter, also for those that a batch does not use: of a batch without images, of layers
        behind the features of an encoder, or of no new token. An empty slice of each adds nothing to the loss.
        """
        return loss + sum(parameter.flatten()[:0].sum() for parameter in self._trained)


class Sharded(Parallel):
    """A model whose weights, gradients and optimizer state are shared out among the processes, by FSDP2."""

    bare: Any

    def __init__(self, model: nn.Module, config: ParallelConfig) -> None:
        """Takes a model that :func:`flamingo.training.sharding.shard_model` has sharded."""
        super().__init__(model)
        self._config = config
        for module in sharded_modules(model):
            # A factor without the forced sum is an operation that gloo refuses. Neither call reaches submodules.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        # The outputs of some modules are views, which nobody changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        # The first call may be one of a submodule, which would become the root.
        self.bare._get_fsdp_state()._lazy_init()
        trained: list[Any] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert all(isinstance(parameter, DTensor) for parameter in trained), "a trained parameter is not sharded"
        self._shard_group = trained[0].device_mesh.get_group("shard")

    @contextmanager
    def synchronised(self, is_last: bool) -> Iterator[None]:
        """Yields with gradients exchanged after the last batch only, unless ``scatter_every_batch`` is set."""
        if self._config.scatter_every_batch:
            self.bare.set_requires_all_reduce(is_last)
        else:
            self.bare.set_requires_gradient_sync(is_last)
        self.bare.set_is_last_backward(is_last)
        yield

    def completed(self, batch: Batch) -> Batch:
        """Returns the batch with a masked image if it has none: every process then calls every sharded module."""
        return with_masked_image(batch, self.bare)

    def clip(self, parameters: Sequence[nn.Parameter], max_grad_norm: float) -> Float[Tensor, ""]:
        """Scales the shards of the gradients down, by one sum over the processes.

        Returns:
            The norm of the whole gradients before.
        """
        gradients = [parameter.grad.to_local() for parameter in parameters]  # type: ignore[union-attr]
        squared_norm = nn.utils.get_total_norm(gradients).square()
        distributed.all_reduce(squared_norm, group=self._shard_group)
        norm = squared_norm.sqrt()
        scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        torch._foreach_mul_(gradients, scale)
        return norm


def _sum(_: None, bucket: distributed.GradBucket):  # type: ignore[no-untyped-def]  # DDP asks for another class
    """Returns the gradients of a bucket when they are summed over the processes. A hook of DDP."""
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def distribute(model: nn.Module, config: ParallelConfig, precision: str = "fp32") -> Parallel:
    """Returns the model as the processes share it, on their devices. The optimizer is made afterwards.

    Args:
        model: The model. Its trained parameters are the same in all processes. It may be sharded already.
        config: The engine.
        precision: "fp32", or "bf16" for computations of sharded trained parameters. The shards stay in fp32.

    Raises:
        UserError: If the engine does not fit the number of processes or the model.
    """
    num_processes = processes().num_processes
    kind = config.kind or ("single" if num_processes == 1 else "ddp")
    if kind == "single" and num_processes > 1:
        raise UserError(f"parallel.kind is single, but this run has {num_processes} processes: choose ddp or fsdp2")
    if isinstance(model, FSDPModule):
        return Sharded(model, config)
    place = getattr(model, "place", model.to)
    place(processes().device)
    if num_processes == 1:
        if kind != "single":
            log.info("parallel.kind=%s shares a model among several processes; this run has one", kind)
        return Parallel(model)
    if kind == "ddp":
        return Replicated(model)
    shard_model(model, make_mesh(config), config, precision)
    load_deferred(model.language_model, processes().device)  # type: ignore[arg-type]
    return Sharded(model, config)
