"""Engine, task, settings -> predictions -> scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation.controls import CONTROLS
from flamingo.evaluation.selection import RANDOM, names_with_images
from flamingo.utils.checks import finite, one_of, positive, positive_probability, seed, whole
from flamingo.utils.errors import UserError


@dataclass
class EvaluationConfig:
    """The settings of an evaluation, and its extent."""

    #: How demonstrations are selected. Names of :data:`flamingo.evaluation.selection.SELECTIONS`, with images.
    demonstrations: list[str] = field(default_factory=lambda: [RANDOM])
    #: Numbers of demonstrations; 0: none; null: those of 0, 1, 2, 4 and 8 that fit. The support and the language
    #: model's context must have room for them.
    shots: list[int] | None = None
    #: Whether 0 shots are also run with two demonstrations without their images. See Flamingo, section 3.1.
    text_only: bool = True
    #: Controls, whose prompts are changed on purpose, run at control_shots. Names of
    #: :data:`flamingo.evaluation.controls.CONTROLS`.
    controls: list[str] = field(default_factory=list)
    #: Numbers of demonstrations of the controls; null: the largest of shots. Controls that need more are then left out.
    control_shots: list[int] | None = None
    #: Numbers of beams of the decoder; 1: greedy decoding.
    num_beams: list[int] = field(default_factory=lambda: [1])
    #: The temperature of sampled tokens; null: search for the most likely outputs.
    temperature: float | None = None
    #: The total probability of the most likely tokens, which may be sampled.
    top_p: float = 1.0
    #: The largest number of tokens of an output; null: the task's.
    max_new_tokens: int | None = None
    #: The smallest number of tokens of an output.
    min_new_tokens: int = 0
    #: The template of captions, which ends with {caption}; null: the checkpoint's.
    template: str | None = None
    #: The text at the beginning of each prompt, such as an instruction.
    prefix: str = ""
    #: The text before the marker of each image.
    before_image: str = ""
    #: The text after the end of each demonstration.
    separator: str = ""
    #: The text at the end of each demonstration; null: the checkpoint's end of a chunk. With task.end it also ends
    #: candidates.
    end_of_chunk: str | None = None
    #: Whether prompts begin with the tokenizer's BOS, if the checkpoint's do.
    bos: bool = True
    #: The power of the length that a beam's log-probability is divided by; 0: none.
    length_penalty: float = 0.0
    #: Texts at which a generated output is cut: it ends before the first of them.
    cut_at: list[str] = field(default_factory=list)
    #: Texts that are removed from a generated output.
    removed: list[str] = field(default_factory=list)
    #: Seeds of the demonstrations, their captions and their order, and of sampled tokens.
    seeds: list[int] = field(default_factory=lambda: [0])
    #: The number of orders of the same demonstrations. Above 1, the standard deviation over them is also scored.
    num_orders: int = 1
    #: The number of queries from the beginning; null: all.
    limit: int | None = None
    #: The number of prompts that are decoded at once.
    batch_size: int = 32
    #: The number of queries whose images and demonstrations are saved for the report.
    pictures: int = 12
    #: The number of queries at whose prompts' last tokens attention is measured; 0: none.
    attention_queries: int = 32

    def __post_init__(self) -> None:
        for name in self.demonstrations:
            one_of("demonstrations", name, names_with_images())
        for name in self.controls:
            one_of("controls", name, CONTROLS)
        for number in self.shots or []:
            whole("shots", number, least=0)
        for number in self.control_shots or []:
            whole("control_shots", number, least=0)
            _check_control_shots(self.controls, number)
        for number in self.num_beams:
            whole("num_beams", number, least=1)
        check_decoding(self.num_beams, self.temperature, self.top_p, self.max_new_tokens, self.min_new_tokens)
        if self.template is not None:
            CaptionTemplate(self.template)
        finite("length_penalty", self.length_penalty)
        for key in ("cut_at", "removed"):
            if "" in getattr(self, key):
                raise UserError(f"{key} has an empty text, which is everywhere in an output")
        for number in self.seeds:
            seed("seeds", number)
        whole("num_orders", self.num_orders, least=1)
        whole("batch_size", self.batch_size, least=1)
        whole("pictures", self.pictures, least=0)
        whole("attention_queries", self.attention_queries, least=0)
        if self.limit is not None:
            whole("limit", self.limit, least=1)


def cleaned(text: str, config: EvaluationConfig) -> str:
    """Returns a generated output up to the first text of ``cut_at``, and without the texts of ``removed``."""
    for stop in config.cut_at:
        text = text.partition(stop)[0]
    for unwanted in config.removed:
        text = text.replace(unwanted, "")
    return text


def _check_control_shots(controls: Sequence[str], shots: int) -> None:
    """Checks that a number of shots suffices for the controls.

    Raises:
        UserError: If not.
    """
    for name in controls:
        least = CONTROLS[name].least_shots
        if shots < least:
            raise UserError(
                f"control_shots has {shots}, but {name} needs at least {least}: remove {name} from controls, or choose "
                "other control_shots"
            )


@dataclass
class ObjectiveConfig:
    """The objective of a search: a score with plain demonstrations, or the loss at the end of the training."""

    #: The task whose score is the objective; null: the loss at the end of the training.
    task: str | None = None
    #: The number of demonstrations of the score.
    shots: int = 0
    #: The metric of the score.
    metric: str = "exact_match"

    def __post_init__(self) -> None:
        whole("shots", self.shots, least=0)
        for key, unset in (("shots", 0), ("metric", "exact_match")):
            if self.task is None and getattr(self, key) != unset:
                raise UserError(f"{key} is {getattr(self, key)}, but without task=NAME the objective is the loss")


def check_decoding(
    num_beams: Sequence[int],
    temperature: float | None,
    top_p: float,
    max_new_tokens: int | None,
    min_new_tokens: int,
) -> None:
    """Checks the values of decoding.

    Raises:
        UserError: If a value is out of range, or values do not fit together; the error names the key.
    """
    positive_probability("top_p", top_p)
    whole("min_new_tokens", min_new_tokens, least=0)
    if max_new_tokens is not None:
        whole("max_new_tokens", max_new_tokens, least=max(1, min_new_tokens))
    if temperature is None:
        if top_p < 1:
            raise UserError(f"top_p={top_p} needs a temperature: it is for sampled tokens")
        return
    positive("temperature", temperature)
    if list(num_beams) != [1]:
        raise UserError(f"num_beams must be 1 where temperature={temperature} samples, got {num_beams}")
