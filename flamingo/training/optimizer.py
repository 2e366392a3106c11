"""AdamW with three groups of parameters, or Muon for the matrices, and a rate that warms up and may fall."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flamingo.utils.checks import below_one, not_negative, one_of, positive, whole
from flamingo.utils.errors import UserError

Schedule = Literal["constant", "cosine"]
Matrices = Literal["adamw", "muon"]


@dataclass
class OptimizerConfig:
    """AdamW and its schedule (Flamingo, appendix B.1.2: 1e-4, decay 0.1, clip 1, 5000 steps of warm-up)."""

    rate: float = 1e-4
    #: The gates' own rate; None: that of all. They start closed, and all that is learnt comes through them.
    gate_rate: float | None = None
    weight_decay: float = 0.1
    #: What matrices learn by: AdamW, or Muon (momentum, made orthogonal), with steps of the size of AdamW's.
    matrices: Matrices = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    #: Number of steps in which the rate rises linearly.
    warmup: int = 0
    schedule: Schedule = "constant"
    #: Largest norm of the gradient of all parameters; larger ones are scaled down to it.
    clip: float = 1.0

    def __post_init__(self) -> None:
        self.betas = tuple(self.betas)  # type: ignore[assignment]  # lists come from YAML and JSON
        positive("rate", self.rate)
        if self.gate_rate is not None:
            positive("gate_rate", self.gate_rate)
        not_negative("weight_decay", self.weight_decay)
        one_of("matrices", self.matrices, get_args(Matrices))
        if len(self.betas) != 2:
            raise UserError(f"betas must be two numbers, got {self.betas}")
        for beta in self.betas:
            below_one("betas", beta)
        whole("warmup", self.warmup, least=0)
        one_of("schedule", self.schedule, get_args(Schedule))
        positive("clip", self.clip)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """What trains, as groups with a name: matrices, which decay; gates, with their own rate; all others, as they are.

    The others are biases, norms, the resampler's latents and frame embeddings, and the new tokens' rows.
    Raises UserError for a model of which nothing trains.
    """
    matrices, gates, others = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, kind = name.rpartition(".")
        if kind.endswith("_gate"):
            gates.append((name, parameter))
        elif kind == "weight" and parameter.ndim >= 2 and not isinstance(model.get_submodule(owner), nn.Embedding):
            matrices.append((name, parameter))
        else:
            others.append((name, parameter))
    gate_rate = config.rate if config.gate_rate is None else config.gate_rate
    groups = [
        {"name": "matrices", "params": matrices, "lr": config.rate, "weight_decay": config.weight_decay},
        {"name": "others", "params": others, "lr": config.rate, "weight_decay": 0.0},
        {"name": "gates", "params": gates, "lr": gate_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("no parameter of the model trains: all have requires_grad=False")
    return groups


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """What ``config`` asks for, over what trains of the model. Raises UserError as its parts do."""
    groups = parameter_groups(model, config)
    if config.matrices == "adamw":
        # Fused: one pass over memory. On a CPU the default takes ten, with temporaries, and up to seconds a step.
        return AdamW(groups, betas=config.betas, fused=True)
    return MuonAndAdamW(groups, config.betas)


class MuonAndAdamW(Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices, which must have two axes, AdamW for the rest.

    Updates have the root mean square of AdamW's, so that the same rates serve both (Moonlight, arXiv
    2502.16982, section 2.2). Raises UserError for a model without matrices or with nothing else.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {})
        matrices = [group for group in self.param_groups if group["name"] == "matrices"]
        others = [group for group in self.param_groups if group["name"] != "matrices"]
        if not matrices or not others:
            raise UserError("optimizer.matrices=muon needs a model with matrices and with something else")
        # They work on the same groups, so that a schedule reaches all of them here.
        self.parts = {
            "muon": Muon(matrices, adjust_lr_fn="match_rms_adamw"),
            "adamw": AdamW(others, betas=betas, fused=True),
        }

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "nobody here hands one over"
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]


def check_shapes(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Raise UserError unless the tensors of a saved ``state`` have the shapes of their parameters, or are numbers."""
    if isinstance(optimizer, MuonAndAdamW):
        for name, part in optimizer.parts.items():
            check_shapes(part, state[name])
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, saved in state["state"].items():
        for name, value in saved.items():
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape != parameters[number].shape:
                there, here = list(value.shape), list(parameters[number].shape)
                raise UserError(f"optimizer state {name} of parameter {number} was {there}, is {here}")


def rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """What multiplies the rates at ``step`` of ``steps``, counted from 1; a cosine is at 0 in the last."""
    if step < config.warmup:
        return step / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / (steps - config.warmup)))


def check_warmup(config: OptimizerConfig, steps: int) -> None:
    """Raises UserError where the warm-up leaves no step to train with."""
    if config.warmup >= steps:
        raise UserError(f"optimizer.warmup must be less than training.steps, {steps}, got {config.warmup}")


def make_schedule(optimizer: Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR:
    """Raises UserError where the warm-up leaves no step to train with."""
    check_warmup(config, steps)
    # LambdaLR counts the steps that are done, and asks once more after the last.
    return LambdaLR(optimizer, lambda done: rate_factor(config, min(done + 1, steps), steps))
