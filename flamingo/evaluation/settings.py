"""Settings: the combinations of shots, demonstrations, control, decoding and seed that a task is evaluated in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.controls import CONTROLS, Control
from flamingo.evaluation.protocol import Task, other_supports
from flamingo.evaluation.selection import IMAGE, NUM_TEXT_ONLY, SELECTIONS, TEXT_ONLY, Selection
from flamingo.results import Row
from flamingo.utils import checks
from flamingo.utils.errors import UserError

#: The numbers of shots if a config sets none.
DEFAULT_SHOTS = (0, 1, 2, 4, 8)

#: The plain setting, in which nothing is missing or wrong.
_NO_CONTROL = Control(least_shots=0)


@dataclass(frozen=True)
class Setting:
    """One way to ask all queries.

    Attributes:
        shots: The number of demonstrations with images.
        demonstrations: A name of :data:`flamingo.evaluation.selection.SELECTIONS`; None: no demonstrations.
        control: A name of :data:`flamingo.evaluation.controls.CONTROLS`, or None.
        num_beams: The number of beams; 1: greedy decoding.
        seed: The seed of the demonstrations, their captions and their order, and of sampled tokens.
        support: The data set of the demonstrations, a name of the task's other supports; None: the task's own support.
        template: The text of the template of captions; None: the checkpoint's.
        temperature: The temperature of sampled tokens; None: search for the most likely outputs.
        top_p: The total probability of the tokens that may be sampled.

    Raises:
        UserError: For values that do not fit together.
    """

    shots: int
    demonstrations: str | None
    control: str | None = None
    num_beams: int = 1
    seed: int = 0
    support: str | None = None
    template: str | None = None
    temperature: float | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of("demonstrations", self.demonstrations, (None, *SELECTIONS))
        checks.one_of("control", self.control, (None, *CONTROLS))
        checks.whole("shots", self.shots, least=0)
        checks.whole("num_beams", self.num_beams, least=1)
        checks.seed("seed", self.seed)
        if self.temperature is not None and self.num_beams > 1:
            raise UserError(f"{self}: sampling has one beam, got num_beams={self.num_beams}")
        if (self.shots > 0) != self.with_images:
            raise UserError(f"{self}: random and retrieved demonstrations need shots, other settings have 0")
        if self.support is not None and not self.with_images:
            raise UserError(f"{self}: another support needs demonstrations with images")
        if self.shots < self.change.least_shots:
            raise UserError(f"{self}: the control needs at least {self.change.least_shots} demonstrations with images")
        if self.is_retrieved and not self.change.with_retrieved:
            raise UserError(f"{self}: the control is for random demonstrations")

    @property
    def with_images(self) -> bool:
        """Whether there are demonstrations with their images."""
        return self.selection is not None and self.selection.images

    @property
    def is_retrieved(self) -> bool:
        """Whether the demonstrations are those most similar to the query."""
        return self.selection is not None and self.selection.retrieved

    @property
    def text_similarity(self) -> str | None:
        """What the demonstrations are similar to the query by; None: by images alone, or not at all."""
        similarity = None if self.selection is None else self.selection.similarity
        return None if similarity == IMAGE else similarity

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
        """The changes of the control."""
        return _NO_CONTROL if self.control is None else CONTROLS[self.control]

    @property
    def decoding(self) -> str:
        """The name in the result files: ``greedy``, ``beam3``, ``temperature0.7``, ``temperature0.7,top_p0.9``."""
        if self.temperature is not None:
            name = f"temperature{float(self.temperature)}"
            return name if self.top_p == 1 else f"{name},top_p{float(self.top_p)}"
        return "greedy" if self.num_beams == 1 else f"beam{self.num_beams}"

    def caption_template(self, default: CaptionTemplate) -> CaptionTemplate:
        """Returns the setting's own template of captions, otherwise the default, with the affixes of the default."""
        return default if self.template is None else replace(default, text=self.template)

    def __str__(self) -> str:
        parts = [
            f"{self.shots} shots",
            self.demonstrations,
            None if self.support is None else f"support {self.support}",
            self.control,
            self.template,
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
            "support": self.support,
            "control": self.control,
            "template": self.template,
            "decoding": self.decoding,
            "seed": self.seed,
        }

    @classmethod
    def of_row(cls, row: Row) -> "Setting":
        """Returns the setting of a row of the result files."""
        num_beams, temperature, top_p = _decoding(row["decoding"])
        return cls(
            shots=row["shots"],
            demonstrations=row["demonstrations"],
            control=row["control"],
            num_beams=num_beams,
            seed=row["seed"],
            support=row["support"],
            template=row["template"],
            temperature=temperature,
            top_p=top_p,
        )


def _decoding(name: str) -> tuple[int, float | None, float]:
    """Returns the number of beams, the temperature and top-p of the name of a decoding."""
    if name == "greedy":
        return 1, None, 1.0
    if name.startswith("beam"):
        return int(name.removeprefix("beam")), None, 1.0
    temperature, _, top_p = name.removeprefix("temperature").partition(",top_p")
    return 1, float(temperature), float(top_p or 1.0)


def make_settings(config: EvaluationConfig, task: Task) -> list[Setting]:
    """Returns every combination of a config. A setting that depends on no seed has only the first seed."""
    shots = list(DEFAULT_SHOTS) if config.shots is None else config.shots
    settings = []
    for num_beams in config.num_beams:
        for seed in config.seeds:
            settings += _plain_settings(config, shots, task, num_beams, seed)
            settings += _control_settings(config, shots, task, num_beams, seed)
    return settings


def _plain_settings(
    config: EvaluationConfig, all_shots: Sequence[int], task: Task, num_beams: int, seed: int
) -> list[Setting]:
    settings = []
    for shots in all_shots:
        if shots > 0:
            for name in config.demonstrations:
                for support in (None, *other_supports(task)):
                    settings.append(_setting(config, shots, name, None, num_beams, seed, support))
        elif seed == config.seeds[0] or config.temperature is not None:
            settings.append(_setting(config, 0, None, None, num_beams, seed))
    if config.text_only and task.text_only:
        settings.append(_setting(config, 0, TEXT_ONLY, None, num_beams, seed))
    return settings


def _control_settings(
    config: EvaluationConfig, all_shots: Sequence[int], task: Task, num_beams: int, seed: int
) -> list[Setting]:
    control_shots = config.control_shots
    if control_shots is None:
        control_shots = [max(all_shots)] if all_shots else []
    settings = []
    for shots in control_shots:
        demonstrations = config.demonstrations if shots > 0 else [None]
        for name in demonstrations:
            for control in config.controls:
                if _has_control(config, shots, name, control, num_beams):
                    for support in _control_supports(task, shots, control):
                        settings.append(_setting(config, shots, name, control, num_beams, seed, support))
    return settings


def _control_supports(task: Task, shots: int, control: str) -> list[str | None]:
    """Returns the supports that a control runs with. None is the task's own."""
    supports: list[str | None] = [None]
    if shots > 0 and CONTROLS[control].every_support:
        supports += other_supports(task)
    return supports


def _has_control(
    config: EvaluationConfig, shots: int, demonstrations: str | None, control: str, num_beams: int
) -> bool:
    """Returns whether a control differs from the other settings, and has enough demonstrations."""
    change = CONTROLS[control]
    if shots < change.least_shots:  # of control_shots=null: the config has refused other numbers
        return False
    if demonstrations is not None and SELECTIONS[demonstrations].retrieved and not change.with_retrieved:
        return False
    # An answer without the model is the same for any number of beams.
    return change.answer is None or num_beams == config.num_beams[0]


def left_out_controls(config: EvaluationConfig, all_shots: Sequence[int]) -> list[str]:
    """Returns the controls that need more demonstrations than ``control_shots=null`` gives them."""
    if config.control_shots is not None:
        return []
    most = max(all_shots, default=0)
    return [control for control in config.controls if CONTROLS[control].least_shots > most]


def _setting(
    config: EvaluationConfig,
    shots: int,
    demonstrations: str | None,
    control: str | None,
    num_beams: int,
    seed: int,
    support: str | None = None,
) -> Setting:
    """Returns a setting with the values that a config sets for all settings."""
    return Setting(
        shots,
        demonstrations,
        control,
        num_beams,
        seed,
        template=config.template,
        temperature=config.temperature,
        top_p=config.top_p,
        support=support,
    )
