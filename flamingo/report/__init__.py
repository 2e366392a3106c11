"""Scores -> plots and one page of HTML."""

from dataclasses import dataclass

from flamingo.utils.checks import finite


@dataclass
class VariantConfig:
    """The row of an ablation in tables."""

    #: The name in tables; null: the overrides of the run.
    name: str | None = None
    #: The score of the paper's variant, times 100 as in its tables; null: there is none.
    paper: float | None = None

    def __post_init__(self) -> None:
        if self.paper is not None:
            finite("paper", self.paper)
