"""Settings: the combinations of shots, demonstrations, control, decoding and seed that a task is evaluated in."""

from dataclasses import dataclass

from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.controls import CONTROLS, Control
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.selection import NUM_TEXT_ONLY, SELECTIONS, TEXT_ONLY, Selection
from flamingo.results import Row
from flamingo.utils import checks
from flamingo.utils.errors import UserError

#: The plain setting, in which nothing is missing or wrong.
_NO_CONTROL = Control()


@dataclass(frozen=True)
class Setting:
    """One way to ask all queries.

    Attributes:
        shots: The number of demonstrations with images.
        demonstrations: A name of :data:`flamingo.evaluation.selection.SELECTIONS`; None: nothing before the query.
        control: A name of :data:`flamingo.evaluation.controls.CONTROLS`, or None.
        num_beams: 1 is greedy decoding.
        seed: Of the demonstrations, their captions and their order.

    Raises:
        UserError: For values that do not fit together.
    """

    shots: int
    demonstrations: str | None
    control: str | None = None
    num_beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("demonstrations", self.demonstrations, (None, *SELECTIONS))
        checks.one_of("control", self.control, (None, *CONTROLS))
        checks.whole("shots", self.shots, least=0)
        checks.whole("num_beams", self.num_beams, least=1)
        checks.seed("seed", self.seed)
        if (self.shots > 0) != self.with_images:
            raise UserError(f"{self}: random and retrieved demonstrations need shots, other settings have 0")
        if self.control is not None and self.change.needs_demonstrations and not self.with_images:
            raise UserError(f"{self}: the control needs demonstrations with images")

    @property
    def with_images(self) -> bool:
        """Whether there are demonstrations with their images."""
        return self.selection is not None and self.selection.images

    @property
    def is_retrieved(self) -> bool:
        """Whether the demonstrations are those most similar to the query."""
        return self.selection is not None and self.selection.retrieved

    @property
    def num_demonstrations(self) -> int:
        """The number of demonstrations, with or without images."""
        return NUM_TEXT_ONLY if self.selection is not None and not self.selection.images else self.shots

    @property
    def selection(self) -> Selection | None:
        """How demonstrations are selected; None: there are none."""
        return None if self.demonstrations is None else SELECTIONS[self.demonstrations]

    @property
    def change(self) -> Control:
        """What the control changes."""
        return _NO_CONTROL if self.control is None else CONTROLS[self.control]

    @property
    def decoding(self) -> str:
        """As in the result files: ``greedy``, ``beam3``."""
        return "greedy" if self.num_beams == 1 else f"beam{self.num_beams}"

    def __str__(self) -> str:
        parts = [
            f"{self.shots} shots",
            self.demonstrations,
            self.control,
            self.decoding,
            f"seed {self.seed}",
        ]
        return ", ".join(part for part in parts if part is not None)

    def row(self, task: Task) -> Row:
        """Returns the fields that identify this setting in the result files."""
        return {
            "task": task.name,
            "shots": self.shots,
            "demonstrations": self.demonstrations,
            "control": self.control,
            "decoding": self.decoding,
            "seed": self.seed,
        }

    @classmethod
    def of_row(cls, row: Row) -> "Setting":
        """Returns the setting of a row of the result files."""
        decoding = row["decoding"]
        num_beams = 1 if decoding == "greedy" else int(decoding.removeprefix("beam"))
        return cls(
            shots=row["shots"],
            demonstrations=row["demonstrations"],
            control=row["control"],
            num_beams=num_beams,
            seed=row["seed"],
        )


def make_settings(config: EvaluationConfig, task: Task) -> list[Setting]:
    """Returns every combination of a config; one that depends on no seed has the first seed only."""
    settings = []
    for num_beams in config.num_beams:
        for seed in config.seeds:
            settings += _plain_settings(config, task, num_beams, seed)
            settings += _control_settings(config, num_beams, seed)
    return settings


def _plain_settings(config: EvaluationConfig, task: Task, num_beams: int, seed: int) -> list[Setting]:
    settings = []
    for shots in config.shots:
        if shots > 0:
            for name in config.demonstrations:
                settings.append(Setting(shots, name, None, num_beams, seed))
        elif seed == config.seeds[0]:
            settings.append(Setting(0, None, None, num_beams, seed))
    if config.text_only and task.text_only:
        settings.append(Setting(0, TEXT_ONLY, None, num_beams, seed))
    return settings


def _control_settings(config: EvaluationConfig, num_beams: int, seed: int) -> list[Setting]:
    settings = []
    for shots in config.control_shots:
        demonstrations = config.demonstrations if shots > 0 else [None]
        for name in demonstrations:
            for control in config.controls:
                # An answer without the model is the same for any number of beams.
                if CONTROLS[control].answer is None or num_beams == config.num_beams[0]:
                    settings.append(Setting(shots, name, control, num_beams, seed))
    return settings
