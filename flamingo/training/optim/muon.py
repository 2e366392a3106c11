"""Muon for matrices, which orthogonalises the momentum, and AdamW for all other parameters."""

from typing import Any

from torch.optim import AdamW, Muon, Optimizer

from flamingo.training.optim import MuonConfig
from flamingo.training.optim.groups import MATRICES, ParameterGroup
from flamingo.utils.errors import UserError


class MuonAndAdamW(Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices, AdamW for the rest.

    Muon's updates are scaled to the root mean square of AdamW's, so that one learning rate serves both (Moonlight,
    arXiv 2502.16982, section 2.2). Matrices must have two axes.
    """

    def __init__(self, groups: list[ParameterGroup], config: MuonConfig) -> None:
        """Raises UserError for a model without matrices, or with nothing else."""
        super().__init__(groups, {})
        matrices = [group for group in self.param_groups if group["name"] == MATRICES]
        others = [group for group in self.param_groups if group["name"] != MATRICES]
        if not matrices or not others:
            raise UserError("optimizer.kind=muon needs a model with matrices and with other parameters")
        # The parts share the groups of this optimizer, so that a schedule reaches all of them here.
        self.parts: dict[str, Optimizer] = {
            "muon": Muon(matrices, adjust_lr_fn="match_rms_adamw"),
            "adamw": AdamW(others, betas=config.betas, fused=True),
        }

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "closures are not supported"
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        # Loading replaces the groups of the parts.
        self.param_groups = self.parts["muon"].param_groups + self.parts["adamw"].param_groups
