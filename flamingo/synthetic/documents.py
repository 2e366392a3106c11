"""Documents of the synthetic benchmark: captions in one dialect, names for shapes or colours, questions.

A document is a list of :class:`Turn`: a scene, a prompt, an answer. :func:`show` makes an interleaved document with
images from it. :func:`tell` makes a text from it, on which a language model is pretrained.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document, Image, Part, Text
from flamingo.synthetic import SyntheticDocumentsConfig
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.drills import SYLLABLES, chant, recital
from flamingo.synthetic.grammar import NUMBERS, PLACES, PLAIN, Dialect, caption, plural, random_dialect
from flamingo.synthetic.scenes import COLOURS, SHAPES, SIZES, Kind, Scene, Split, neighbours, random_scene, split_of
from flamingo.utils.errors import UserError

#: The possible numbers of names in a binding document.
WAYS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Turn:
    """A scene of a document with its prompt and answer."""

    scene: Scene
    #: The text before the answer; None: the prompt of the template of captions.
    prompt: str | None
    answer: str
    #: Whether the scene and earlier turns determine the answer.
    answerable: bool = True
    #: The word of the scene's plain caption that determines the answer, if one word does.
    keyword: str | None = None

    @property
    def description(self) -> str:
        """The words in place of the image: the keyword, or a plain caption if several words determine the answer."""
        return self.keyword or caption(self.scene, PLAIN)

    def texts(self, template: CaptionTemplate) -> tuple[str, str]:
        """Returns the text after the image up to the answer, and the answer with the spaces before it."""
        if self.prompt is None:
            return template.prompt, template.answer(self.answer)
        return self.prompt, f" {self.answer}"


# ----------------------------------------------------------------------------------- kinds


def caption_turns(rng: random.Random, split: Split, count: int, dialect: Dialect | None = None) -> list[Turn]:
    """Returns captions in one dialect, by default a random one."""
    dialect = dialect or random_dialect(rng, split)
    scenes = [random_scene(rng, split) for _ in range(count)]
    return [Turn(scene, None, caption(scene, dialect)) for scene in scenes]


def binding_turns(rng: random.Random, split: Split, count: int) -> list[Turn]:
    """Returns single objects with names that stand for shapes, or for colours, in this document."""
    meanings = random_names(rng, split, rng.choice(WAYS))
    earlier_names: set[str] = set()
    turns = []
    for _ in range(count):
        name = rng.choice(list(meanings))
        meaning = meanings[name]
        is_known = name in earlier_names
        turns.append(Turn(meaning.random_scene(rng), None, name, answerable=is_known, keyword=meaning.value))
        earlier_names.add(name)
    return turns


@dataclass(frozen=True)
class Meaning:
    """The shape or the colour that a name stands for."""

    attribute: str
    value: str
    split: Split

    def random_scene(self, rng: random.Random) -> Scene:
        """Returns a single object with the attribute's value. Everything else varies freely."""
        while True:
            attributes = {"shape": rng.choice(SHAPES), "colour": rng.choice(COLOURS), "size": rng.choice(SIZES)}
            attributes[self.attribute] = self.value
            scene = Scene((Kind(**attributes),), axis=None, count=1, seed=rng.getrandbits(32))
            # A tenth of all single objects is too few for five names. Evaluation therefore uses scenes of both splits.
            if self.split == "evaluation" or scene.split == self.split:
                return scene


def random_names(rng: random.Random, split: Split, ways: int) -> dict[str, Meaning]:
    """Returns names of two syllables, such as "Ba Do", with their meanings.

    No two names share a syllable. The names belong to the split.
    """
    attribute, values = rng.choice((("shape", SHAPES), ("colour", COLOURS)))
    names: list[str] = []
    while len(names) < ways:
        syllables = rng.sample(SYLLABLES, 2)
        name = " ".join(syllables)
        is_distinct = not any(syllable in other for syllable in syllables for other in names)
        if is_distinct and split_of("name", name) == split:
            names.append(name)
    named_values = rng.sample(values, ways)
    return {name: Meaning(attribute, value, split) for name, value in zip(names, named_values, strict=True)}


def question_turns(rng: random.Random, split: Split, count: int) -> list[Turn]:
    """Returns questions about colour, shape, size, position and number."""
    turns = []
    for _ in range(count):
        scene = random_scene(rng, split)
        turns.append(rng.choice(_all_questions(scene)))
    return turns


def _all_questions(scene: Scene) -> list[Turn]:
    if scene.axis is None:
        questions = _questions_of_group(scene)
    else:
        questions = []
        for kind, other, place in zip(scene.kinds, scene.kinds[::-1], PLACES[scene.axis], strict=True):
            questions += _questions_of_pair(kind, other, place)
    return [Turn(scene, f"Question: {question} Answer:", answer) for question, answer in questions]


def _questions_of_group(scene: Scene) -> list[tuple[str, str]]:
    """Returns questions about equal objects, with their answers."""
    kind = scene.kinds[0]
    subject = f"is the {kind.shape}" if scene.count == 1 else f"are the {plural(kind.shape)}"
    return [
        (f"how many {plural(kind.shape)} are there?", NUMBERS[scene.count - 1]),
        (f"what colour {subject}?", kind.colour),
        (f"what size {subject}?", kind.size),
    ]


def _questions_of_pair(kind: Kind, other: Kind, place: str) -> list[tuple[str, str]]:
    """Returns questions about one of two objects, with their answers. They name it by an attribute that only it has."""
    questions = []
    if kind.shape != other.shape:
        questions.append((f"what colour is the {kind.shape}?", kind.colour))
        questions.append((f"what size is the {kind.shape}?", kind.size))
        questions.append((f"where is the {kind.shape}?", place))
    if kind.colour != other.colour:
        questions.append((f"what shape is {kind.colour}?", kind.shape))
        questions.append((f"where is the {kind.colour} one?", place))
    return questions


# ------------------------------------------------------------------- with images, and as text

#: Kind of document -> the function that draws its turns.
TURNS: dict[str, Callable[[random.Random, Split, int], list[Turn]]] = {
    "captions": caption_turns,
    "binding": binding_turns,
    "questions": question_turns,
}


def show(
    turns: Sequence[Turn], id: str = "", num_text_turns: int = 0, template: CaptionTemplate | None = None
) -> Document:
    """Returns an interleaved document: the image, the prompt and the answer of each turn. Answers are trained on.

    Args:
        turns: The turns of the document.
        id: The id of the document.
        num_text_turns: The number of turns at the beginning that are lines of text, as in a language model's
            pretraining. The description replaces the image.
        template: The template of turns without a prompt of their own; None: the default template.
    """
    parts: list[Part] = []
    for number, turn in enumerate(turns):
        prompt, answer_text = turn.texts(template or CaptionTemplate())
        answer = Text(answer_text, train=turn.answerable)
        if number < num_text_turns:
            parts += [Text(f"{turn.description} {prompt}", train=False), answer, Text("\n", train=False)]
        else:
            parts += [Image(draw(turn.scene)), Text(prompt, train=False), answer]
    return Document(parts, id)


#: The replacement of an image in a text: a plain caption, or the keyword.
Description = Literal["caption", "keyword"]


def tell(turns: Sequence[Turn], description: Description | None) -> str:
    """Returns the turns as lines of text, with or without a description of each image."""
    lines = []
    for turn in turns:
        prompt, answer = turn.texts(CaptionTemplate())
        lines.append(f"{_describe(turn, description)}{prompt}{answer}\n")
    return "".join(lines)


def _describe(turn: Turn, description: Description | None) -> str:
    match description:
        case "caption":
            return f"{caption(turn.scene, PLAIN)} "
        case "keyword":
            assert turn.keyword is not None
            return f"{turn.keyword} "
        case None:
            return ""


# Parts of seeds and of documents' ids: another text would change all documents.
_STREAM_PREFIX = "world"
_STREAM_DOCUMENTS, _STREAM_TEXTS, _STREAM_CONTRASTS = "shown", "told", "contrasts"


def stream(*parts: object) -> tuple[random.Random, str]:
    """Returns a random generator that depends only on ``parts``, and its seed, which is also the id of a document."""
    name = f"{_STREAM_PREFIX}/{'/'.join(map(str, parts))}"
    return random.Random(name), name


@dataclass(frozen=True)
class SyntheticDocuments(Sequence[Document]):
    """Interleaved documents of one kind. Each depends only on the seed and its index."""

    kind: str
    split: Split
    seed: int
    min_images: int
    max_images: int
    #: The probability that a document begins with lines of text: its first turn or more, but not all.
    text_prefix_prob: float = 0.0
    length: int = 1_000_000
    template: CaptionTemplate = field(default_factory=CaptionTemplate)

    def __post_init__(self) -> None:
        if self.kind not in TURNS:
            raise UserError(f"synthetic documents are of the kinds {', '.join(TURNS)}; got {self.kind!r}")
        if not 0 < self.min_images <= self.max_images:
            bounds = f"{self.min_images} and {self.max_images}"
            raise UserError(f"documents need 0 < min_images <= max_images, got {bounds}")
        if not 0 <= self.text_prefix_prob <= 1:
            raise UserError(f"text_prefix_prob must be a probability, got {self.text_prefix_prob}")

    @classmethod
    def from_config(
        cls, config: SyntheticDocumentsConfig, split: Split, seed: int, template: CaptionTemplate
    ) -> "SyntheticDocuments":
        """Returns the documents of an entry of a config's ``data.documents``."""
        kind = config.kind.removeprefix("synthetic_")
        sizes = (config.min_images, config.max_images)
        return cls(kind, split, seed, *sizes, config.text_prefix_prob, template=template)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]
        _check_index(index, self.length)
        rng, name = stream(_STREAM_DOCUMENTS, self.kind, self.split, self.seed, index)
        turns = TURNS[self.kind](rng, self.split, rng.randint(self.min_images, self.max_images))
        num_text_turns = 0
        if len(turns) > 1 and rng.random() < self.text_prefix_prob:
            num_text_turns = rng.randint(1, len(turns) - 1)
        return show(turns, name, num_text_turns, self.template)


# ---------------------------------------------------------------------------- for pretraining


def _described_turns(kind: str, description: Description | None, max_turns: int) -> Callable[[random.Random], str]:
    return lambda rng: tell(TURNS[kind](rng, "training", rng.randint(2, max_turns)), description)


def _described_questions(rng: random.Random) -> str:
    """Returns plain captions of scenes, each with some questions about it."""
    text = ""
    for _ in range(rng.randint(1, 5)):
        scene = random_scene(rng, "training")
        questions = _all_questions(scene)
        number = rng.randint(1, min(4, len(questions)))
        text += f"{caption(scene, PLAIN)} {tell(rng.sample(questions, number), None)}"
    return text


#: The texts of a language model's pretraining, with weights. Questions are a quarter of the tokens, drills a fifth.
_TEXTS = (
    (_described_turns("captions", "caption", 9), 0.05),
    # Dialects alone, without descriptions.
    (_described_turns("captions", None, 9), 0.05),
    (_described_questions, 0.16),
    (_described_turns("binding", "caption", 21), 0.14),
    (_described_turns("binding", "keyword", 21), 0.18),
    (chant, 0.20),
    (recital, 0.22),
)


@dataclass(frozen=True)
class SyntheticTexts(Sequence[str]):
    """Texts of all kinds of documents of the training split, and drills, to pretrain a language model on."""

    seed: int
    length: int = 1_000_000

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        _check_index(index, self.length)
        rng, _ = stream(_STREAM_TEXTS, self.seed, index)
        texts, weights = zip(*_TEXTS, strict=True)
        return rng.choices(texts, weights)[0](rng)


@dataclass(frozen=True)
class SyntheticContrasts(Sequence[list[tuple[Image, str]]]):
    """Groups of images with plain captions that differ in one thing each, to pretrain a vision encoder on."""

    seed: int
    group_size: int = 4
    length: int = 1_000_000

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[tuple[Image, str]]:  # type: ignore[override]
        _check_index(index, self.length)
        rng, _ = stream(_STREAM_CONTRASTS, self.seed, index)
        scene = random_scene(rng, "training")
        others = neighbours(scene)
        scenes = [scene]
        scenes += rng.sample(others, min(self.group_size - 1, len(others)))
        pairs = []
        for other in scenes:
            # Every image has its own seed: details without a name must not distinguish the group's images.
            redrawn = Scene(other.kinds, other.axis, other.count, rng.getrandbits(32))
            pairs.append((Image(draw(redrawn)), caption(redrawn, PLAIN)))
        return pairs


def _check_index(index: int, length: int) -> None:
    """Checks an index: iteration over a sequence ends with an IndexError.

    Raises:
        IndexError: If the index is out of range.
    """
    if not 0 <= index < length:
        raise IndexError(f"index {index} of {length} documents")
