"""Muon for matrices, which orthogonalises the momentum, and AdamW for all other parameters."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from flamingo.training.optim import MuonConfig
from flamingo.training.optim.groups import BACKBONE_MATRICES, MATRICES, ParameterGroup
from flamingo.utils.errors import UserError
from flamingo.utils.shards import gather_like, local_shard, shard_like


class SkippingMuon(Muon):
    """torch's Muon, bit for bit, with ``found_inf``: see :data:`flamingo.training.optim.OPTIMIZERS`.

    A sharded matrix is gathered for its update, which each process computes as a whole.
    """

    found_inf: Float[Tensor, ""] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Changes the parameters, unless ``found_inf`` is 1."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                self._step_one(group, parameter, gradient, momentum)

    def _step_one(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, momentum: Tensor) -> None:
        decay = torch.full((), 1 - group["lr"] * group["weight_decay"], device=parameter.device)
        skips = torch.zeros_like(decay, dtype=torch.bool) if self.found_inf is None else self.found_inf > 0
        # A skipped step moves the momentum towards itself and the parameter by 0.
        local_momentum, local_parameter = local_shard(momentum), local_shard(parameter)
        local_gradient = torch.where(skips, local_momentum, local_shard(gradient))
        local_momentum.lerp_(local_gradient, 1 - group["momentum"])
        nesterov = gather_like(local_gradient.lerp(local_momentum, group["momentum"]), parameter)
        update = _zeropower_via_newtonschulz(nesterov, group["ns_coefficients"], group["ns_steps"], group["eps"])
        local_parameter.mul_(decay.masked_fill(skips, 1.0))
        lr = _adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
        local_parameter.add_(shard_like(update, parameter).masked_fill(skips, 0.0), alpha=-lr)


class MuonAndAdamW(Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices, AdamW for the rest.

    Muon's updates are scaled to the root mean square of AdamW's, so that one learning rate serves both (Moonlight,
    arXiv 2502.16982, section 2.2). Matrices must have two axes.
    """

    found_inf: Float[Tensor, ""] | None = None

    def __init__(self, groups: list[ParameterGroup], config: MuonConfig) -> None:
        """Makes both optimizers.

        Raises:
            UserError: If the model has no matrices, or only matrices.
        """
        super().__init__(groups, {})
        matrices = [group for group in self.param_groups if group["name"] in (MATRICES, BACKBONE_MATRICES)]
        others = [group for group in self.param_groups if group["name"] not in (MATRICES, BACKBONE_MATRICES)]
        if not matrices or not others:
            raise UserError("optimizer.kind=muon needs a model with matrices and with other parameters")
        # The parts share the groups of this optimizer, so that its schedule reaches all of them.
        self.parts: dict[str, Optimizer] = {
            "muon": SkippingMuon(matrices, adjust_lr_fn="match_rms_adamw"),
            "adamw": AdamW(others, betas=config.betas, fused=True),
        }

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Changes the parameters by both optimizers, unless ``found_inf`` is 1."""
        assert closure is None, "closures are not supported"
        for part in self.parts.values():
            part.found_inf = self.found_inf  # type: ignore[attr-defined]  # missing in the stubs of torch
            part.step()
