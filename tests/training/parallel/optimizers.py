"""SGD as a kind of optimizer: unlike AdamW it does not hide a gradient of a wrong scale."""

from dataclasses import dataclass
from typing import Any

import torch

from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import ParameterGroup


@dataclass
class SGDConfig(OptimizerConfig):
    kind: str = "sgd"


KIND = (SGDConfig, "tests.training.parallel.optimizers:SGD")


class SGD(torch.optim.SGD):
    def __init__(self, groups: list[ParameterGroup], config: SGDConfig) -> None:
        super().__init__(groups)

    def step(self, closure: Any = None) -> None:
        # The fused SGD knows ``found_inf``, but not sharded parameters, and the other one the reverse.
        self.found_inf = None
        super().step(closure)
