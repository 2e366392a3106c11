"""SGD as a kind of optimizer: unlike AdamW it does not hide a gradient of a wrong scale."""

from dataclasses import dataclass

from torch.optim import SGD

from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import ParameterGroup


@dataclass
class SGDConfig(OptimizerConfig):
    kind: str = "sgd"


KIND = (SGDConfig, "tests.training.parallel.optimizers:sgd")


def sgd(groups: list[ParameterGroup], config: SGDConfig) -> SGD:
    return SGD(groups, fused=True)
