"""Optimizers: one file each, with the parameter groups and the learning rate schedule that they share."""

from dataclasses import dataclass

from flamingo.utils.checks import below_one, not_negative, one_of, positive, whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds


@dataclass
class OptimizerConfig:
    """The config of all optimizers (Flamingo, appendix B.1.2: lr 1e-4, decay 0.1, norm 1, 5000 warm-up steps)."""

    #: The kind of optimizer.
    kind: str
    #: The learning rate.
    lr: float = 1e-4
    #: The learning rate of the gates; null: lr. The gates start closed, and all that the model learns passes through
    #: them.
    gate_lr: float | None = None
    #: The learning rate of the backbones, if they train; null: lr. They are pretrained, so it is often smaller.
    backbone_lr: float | None = None
    #: The decoupled weight decay.
    weight_decay: float = 0.1
    #: The betas of AdamW, also for the parameters that Muon does not handle.
    betas: tuple[float, float] = (0.9, 0.999)
    #: The number of steps in which the learning rate rises linearly.
    warmup_steps: int = 0
    #: The learning rate after the warm-up.
    schedule: str = "constant"
    #: The largest norm of the gradient of all parameters. Larger gradients are scaled down to it.
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        if self.gate_lr is not None:
            positive("gate_lr", self.gate_lr)
        if self.backbone_lr is not None:
            positive("backbone_lr", self.backbone_lr)
        not_negative("weight_decay", self.weight_decay)
        self.betas = tuple(self.betas)  # type: ignore[assignment]  # lists come from YAML and JSON
        if len(self.betas) != 2:
            raise UserError(f"betas must be two numbers, got {self.betas}")
        for beta in self.betas:
            below_one("betas", beta)
        whole("warmup_steps", self.warmup_steps, least=0)
        one_of("schedule", self.schedule, ("constant", "cosine"))
        positive("max_grad_norm", self.max_grad_norm)


@dataclass
class AdamWConfig(OptimizerConfig):
    """AdamW for all parameters."""

    kind: str = "adamw"


@dataclass
class MuonConfig(OptimizerConfig):
    """Muon for matrices, AdamW for all other parameters."""

    kind: str = "muon"


def default_warmup(steps: int) -> int:
    """Returns the warm-up of a training that sets none: 50 steps, or a tenth of its steps if that is less."""
    return min(50, steps // 10)


def check_warmup(config: OptimizerConfig, steps: int) -> None:
    """Checks that at least one step follows the warm-up.

    Raises:
        UserError: If none does.
    """
    if config.warmup_steps >= steps:
        raise UserError(f"optimizer.warmup_steps must be less than training.steps, {steps}, got {config.warmup_steps}")


#: An optimizer is called with the parameter groups and its config. Its step changes neither parameters nor state if its
#: attribute ``found_inf``, a number on the device, is 1. The fused optimizers of torch have this attribute.
OPTIMIZERS: Kinds = {
    "adamw": (AdamWConfig, "flamingo.training.optim.adamw:adamw"),
    "muon": (MuonConfig, "flamingo.training.optim.muon:MuonAndAdamW"),
}
