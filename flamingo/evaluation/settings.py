"""The ways in which a task can be asked, and what each shows before a query."""

from dataclasses import dataclass
from typing import Literal

from flamingo.evaluation.demonstrations import choose, retrieve, shuffled_captions, shuffled_images
from flamingo.evaluation.protocol import Example, Task
from flamingo.evaluation.scores import Row
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.errors import UserError

#: In "zero-shot" prompts of the paper (Flamingo, section 3.1).
TEXT_ONLY_DEMONSTRATIONS = 2


@dataclass(frozen=True)
class Setting:
    """One way to ask all queries. ``shots`` is the number of demonstrations with images.

    ``demonstrations``: None (nothing before the query), ``text_only`` (two without their images),
    ``random`` or ``rices`` (the most similar to the query). ``control``: None; ``blind`` (no token
    attends to any image); ``shuffled_images`` and ``shuffled_captions`` (see
    :mod:`flamingo.evaluation.demonstrations`); ``copied_caption`` (the last demonstration's caption is
    the output, no model is asked). Raises UserError for what does not go together.
    """

    shots: int
    demonstrations: Literal["text_only", "random", "rices"] | None
    control: Literal["blind", "shuffled_images", "shuffled_captions", "copied_caption"] | None = None
    beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("demonstrations", self.demonstrations, (None, "text_only", "random", "rices"))
        one_of("control", self.control, (None, "blind", "shuffled_images", "shuffled_captions", "copied_caption"))
        whole("shots", self.shots, least=0)
        whole("beams", self.beams, least=1)
        seed("seed", self.seed)
        if (self.shots > 0) != self.with_images:
            raise UserError(f"{self}: random and retrieved demonstrations need shots, other settings have 0")
        if self.control not in (None, "blind") and not self.with_images:
            raise UserError(f"{self}: the control needs demonstrations with images")

    @property
    def with_images(self) -> bool:
        """Whether there are demonstrations with their images."""
        return self.demonstrations in ("random", "rices")

    @property
    def decoding(self) -> str:
        return "greedy" if self.beams == 1 else f"beam{self.beams}"

    def __str__(self) -> str:
        parts = (f"{self.shots} shots", self.demonstrations, self.control, self.decoding, f"seed {self.seed}")
        return ", ".join(filter(None, parts))

    def row(self, task: Task) -> Row:
        """The fields that this setting is told apart by in the files."""
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
        beams = 1 if row["decoding"] == "greedy" else int(row["decoding"].removeprefix("beam"))
        return cls(row["shots"], row["demonstrations"], row["control"], beams, row["seed"])


def prompt_examples(task: Task, query: Example, setting: Setting, order: int = 0) -> list[Example]:
    """The demonstrations as they are shown before the query: a pure function of its arguments."""
    if setting.demonstrations is None:
        return []
    if setting.demonstrations == "text_only":
        if not task.text_only:
            raise UserError(f"{task.name} has no 0-shot variant with text-only demonstrations")
        return choose(task, query, TEXT_ONLY_DEMONSTRATIONS, setting.seed, order)
    if setting.demonstrations == "rices":
        chosen = retrieve(task, query, setting.shots, setting.seed)
    else:
        chosen = choose(task, query, setting.shots, setting.seed, order)
    if setting.control == "shuffled_images":
        return shuffled_images(chosen, query, setting.seed)
    if setting.control == "shuffled_captions":
        return shuffled_captions(task, chosen, query, setting.seed)
    return chosen
