"""Batches -> trained weights."""

import math
from dataclasses import dataclass

from flamingo.model import PACKED_ATTENTION
from flamingo.utils.checks import flag, one_of, seed, whole
from flamingo.utils.errors import UserError

#: The engines of several processes.
PARALLEL_KINDS = ("single", "ddp", "fsdp2", "hsdp")


@dataclass
class ParallelConfig:
    """How the processes of a run share a model."""

    #: single, ddp, fsdp2 or hsdp; null: single with one process, ddp with several.
    #: With ddp each process has the whole model. fsdp2 shards it over all processes, hsdp over ``shard_size`` of them.
    #: One process always has the whole model.
    kind: str | None = None
    #: hsdp: the number of processes that share one copy; null: those of a machine.
    shard_size: int | None = None
    #: Whether layers are gathered again for the backward pass, to need less memory.
    reshard_after_forward: bool = True
    #: Whether a frozen vision encoder is sharded. One that trains always is.
    shard_vision_model: bool = False
    #: Whether gradients are sharded after each batch of an update, to need less memory.
    #: The processes then exchange them as often; with hsdp only within a machine.
    scatter_every_batch: bool = False

    def __post_init__(self) -> None:
        if self.kind is not None:
            one_of("kind", self.kind, PARALLEL_KINDS)
        if self.shard_size is not None:
            whole("shard_size", self.shard_size, least=1)
            if self.kind != "hsdp":
                raise UserError(f"shard_size is for kind=hsdp, but kind is {self.kind}")
        flag("reshard_after_forward", self.reshard_after_forward)
        flag("shard_vision_model", self.shard_vision_model)
        flag("scatter_every_batch", self.scatter_every_batch)

    @property
    def shards(self) -> bool:
        """Whether several processes share the weights, instead of each having them all."""
        return self.kind in ("fsdp2", "hsdp")


DEFAULT_PARALLEL = ParallelConfig()


@dataclass
class TrainingConfig:
    """The length of a training, the size of an update, and the intervals of logs, states and samples."""

    #: Updates of the weights.
    steps: int
    #: Batches of each data set per update.
    accumulate: int = 1
    #: The data sets of an update: accumulated (all of them) or round_robin (one, in turn). See Flamingo, section 2.4
    #: and table 3.
    mixing: str = "accumulated"
    #: bf16 is autocast: parameters, gradients and the optimizer's state stay in fp32.
    precision: str = "fp32"
    #: The attention of packed rows: dense, flex (CUDA) or varlen (CUDA, bf16).
    packed_attention: str = "dense"
    #: Whether layers compute activations again in the backward pass, to need less memory.
    checkpointing: bool = False
    #: Whether torch.compile compiles the layers. It takes minutes and a C++ compiler.
    compile: bool = False
    #: Steps between two lines of history.jsonl.
    log_every: int = 10
    #: Steps between two states that the run can resume from.
    save_every: int = 500
    #: Steps between two states that stay besides the newest: n * save_every; 0: none.
    keep_every: int = 0
    #: Steps between two logs of sample answers; 0: none.
    sample_every: int = 0
    #: Steps between two measurements of the held-out loss; null: save_every; 0: none.
    validate_every: int | None = None
    #: The seed of the documents and their order.
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "accumulate", "log_every", "save_every"):
            whole(key, getattr(self, key), least=1)
        whole("keep_every", self.keep_every, least=0)
        if self.keep_every % self.save_every != 0:
            raise UserError(f"keep_every must be a multiple of save_every={self.save_every}; got {self.keep_every}")
        whole("sample_every", self.sample_every, least=0)
        if self.validate_every is not None:
            whole("validate_every", self.validate_every, least=0)
        seed("seed", self.seed)
        flag("checkpointing", self.checkpointing)
        one_of("mixing", self.mixing, ("accumulated", "round_robin"))
        one_of("precision", self.precision, ("fp32", "bf16"))
        flag("compile", self.compile)
        one_of("packed_attention", self.packed_attention, PACKED_ATTENTION)
        if self.packed_attention == "varlen" and self.precision != "bf16":
            raise UserError(f"packed_attention=varlen needs precision=bf16, got {self.precision}")

    def due(self, every: int, step: int) -> bool:
        """Returns whether an action is due after a step.

        Args:
            every: The steps between two actions; 0: never. The action also follows the last step.
            step: The number of the step, from 1 on.
        """
        return every > 0 and (step % every == 0 or step == self.steps)

    def number_due(self, every: int) -> int:
        """Returns how often an action of :meth:`due` happens in the whole training."""
        return 0 if every == 0 else math.ceil(self.steps / every)

    @property
    def validation_every(self) -> int:
        """The steps between two measurements of the loss of held-out documents; 0: none."""
        return self.save_every if self.validate_every is None else self.validate_every
