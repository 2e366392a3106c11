"""Engine, task, settings -> predictions -> scores."""

from dataclasses import dataclass, field

from flamingo.evaluation.controls import CONTROLS
from flamingo.evaluation.selection import RANDOM, names_with_images
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.errors import UserError


@dataclass
class EvaluationConfig:
    """The settings of an evaluation, and how much of it is run."""

    #: How demonstrations are selected: names of :data:`flamingo.evaluation.selection.SELECTIONS`, with images.
    demonstrations: list[str] = field(default_factory=lambda: [RANDOM])
    #: Numbers of demonstrations; 0: nothing before the query.
    shots: list[int] = field(default_factory=lambda: [0, 1, 2, 4, 8])
    #: Whether 0 shots are also evaluated with two demonstrations without their images (Flamingo, section 3.1).
    text_only: bool = True
    #: Names of :data:`flamingo.evaluation.controls.CONTROLS`, each with these numbers of shots.
    controls: list[str] = field(default_factory=list)
    control_shots: list[int] = field(default_factory=list)
    #: 1 is greedy.
    num_beams: list[int] = field(default_factory=lambda: [1])
    seeds: list[int] = field(default_factory=lambda: [0])
    #: Orders of the same demonstrations; above 1, the standard deviation over orders is scored, too.
    num_orders: int = 1
    #: The number of queries, the first ones; null: all.
    limit: int | None = None
    #: Prompts that are decoded at once.
    batch_size: int = 32
    #: Queries whose pictures are saved for the report, with those of their demonstrations.
    pictures: int = 12

    def __post_init__(self) -> None:
        for name in self.demonstrations:
            one_of("demonstrations", name, names_with_images())
        for name in self.controls:
            one_of("controls", name, CONTROLS)
        for number in self.shots:
            whole("shots", number, least=0)
        for number in self.control_shots:
            whole("control_shots", number, least=0)
        for number in self.num_beams:
            whole("num_beams", number, least=1)
        for number in self.seeds:
            seed("seeds", number)
        whole("num_orders", self.num_orders, least=1)
        whole("batch_size", self.batch_size, least=1)
        whole("pictures", self.pictures, least=0)
        if self.limit is not None:
            whole("limit", self.limit, least=1)


@dataclass
class ObjectiveConfig:
    """A score of the run's evaluations with plain demonstrations; or, where `task` is null, the loss at the end."""

    task: str | None = None
    shots: int = 0
    metric: str = "exact_match"

    def __post_init__(self) -> None:
        whole("shots", self.shots, least=0)
        for key, unset in (("shots", 0), ("metric", "exact_match")):
            if self.task is None and getattr(self, key) != unset:
                raise UserError(f"{key} is {getattr(self, key)}, but without task=NAME the objective is the loss")
