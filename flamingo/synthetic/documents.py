"""Documents of the synthetic benchmark: captions in one dialect, nonce names bound to what is shown, questions.

A document is made as a list of :class:`Turn` (a scene, what is asked of it, what is answered) and then
shown, with pictures, or told, in words alone for the pretraining of a language model.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flamingo.data.document import PROMPT, Document, Image, Part, Text
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.drills import SYLLABLES, chant, recital
from flamingo.synthetic.grammar import NUMBERS, PLACES, PLAIN, Dialect, caption, plural, random_dialect
from flamingo.synthetic.scenes import COLOURS, SHAPES, SIZES, Kind, Scene, Split, neighbours, random_scene, split_of
from flamingo.utils.errors import UserError

WAYS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Turn:
    """One scene of a document.

    ``knowable``: whether the answer follows from the scene and earlier turns; ``gist``: the one word
    of the scene's plain caption that the answer depends on, where that is all.
    """

    scene: Scene
    prompt: str
    answer: str
    knowable: bool = True
    gist: str | None = None


# ----------------------------------------------------------------------------------- kinds


def caption_turns(rng: random.Random, split: Split, turns: int, dialect: Dialect | None = None) -> list[Turn]:
    """Captions that share one dialect, drawn here unless given."""
    dialect = dialect or random_dialect(rng, split)
    scenes = [random_scene(rng, split) for _ in range(turns)]
    return [Turn(scene, PROMPT, caption(scene, dialect)) for scene in scenes]


def binding_turns(rng: random.Random, split: Split, turns: int) -> list[Turn]:
    """Single objects under nonce names, bound for this document to shapes or to colours."""
    meanings = random_names(rng, split, rng.choice(WAYS))
    named: set[str] = set()
    document = []
    for name in (rng.choice(list(meanings)) for _ in range(turns)):
        value, scene = meanings[name]
        document.append(Turn(scene(rng), PROMPT, name, knowable=name in named, gist=value))
        named.add(name)
    return document


#: The shape or colour that a name stands for, and a function that draws a scene it fits.
Meaning = tuple[str, Callable[[random.Random], Scene]]


def random_names(rng: random.Random, split: Split, ways: int) -> dict[str, Meaning]:
    """Names of two syllables, "Ba Do", each with its meaning; what is not named varies freely.

    No two of them share a syllable. The names are of the split. Scenes of training are, too; those of
    evaluation are of either split, because a tenth of all single objects is too little for five names.
    """
    attribute, values = rng.choice((("shape", SHAPES), ("colour", COLOURS)))
    names: list[str] = []
    while len(names) < ways:
        syllables = rng.sample(SYLLABLES, 2)
        name = " ".join(syllables)
        if not any(syllable in other for syllable in syllables for other in names) and split_of("name", name) == split:
            names.append(name)

    def meaning(value: str) -> Meaning:
        def scene(rng: random.Random) -> Scene:
            while True:
                free = {"shape": rng.choice(SHAPES), "colour": rng.choice(COLOURS), "size": rng.choice(SIZES)}
                scene = Scene((Kind(**(free | {attribute: value})),), None, 1, rng.getrandbits(32))
                if split == "evaluation" or scene.split == split:
                    return scene

        return value, scene

    return {name: meaning(value) for name, value in zip(names, rng.sample(values, ways), strict=True)}


def question_turns(rng: random.Random, split: Split, turns: int) -> list[Turn]:
    """Questions about colour, shape, size, place and number."""
    scenes = (random_scene(rng, split) for _ in range(turns))
    return [rng.choice(_asked(scene)) for scene in scenes]


def _asked(scene: Scene) -> list[Turn]:
    """All questions about a scene."""
    if scene.axis is None:
        kind = scene.kinds[0]
        verb, things = ("is", kind.shape) if scene.count == 1 else ("are", plural(kind.shape))
        asked = [(f"how many {plural(kind.shape)} are there?", NUMBERS[scene.count - 1])]
        asked += [(f"what colour {verb} the {things}?", kind.colour), (f"what size {verb} the {things}?", kind.size)]
    else:
        asked = []
        for kind, other, place in zip(scene.kinds, scene.kinds[::-1], PLACES[scene.axis], strict=True):
            # The object is named by what only it has.
            if kind.shape != other.shape:
                asked += [(f"what colour is the {kind.shape}?", kind.colour)]
                asked += [(f"what size is the {kind.shape}?", kind.size), (f"where is the {kind.shape}?", place)]
            if kind.colour != other.colour:
                asked += [(f"what shape is {kind.colour}?", kind.shape), (f"where is the {kind.colour} one?", place)]
    return [Turn(scene, f"Question: {question} Answer:", answer) for question, answer in asked]


# --------------------------------------------------------------------------- shown and told

#: How the turns of each kind of document are drawn.
TURNS: dict[str, Callable[[random.Random, Split, int], list[Turn]]] = {
    "captions": caption_turns,
    "binding": binding_turns,
    "questions": question_turns,
}


def show(turns: Sequence[Turn], id: str = "", told: int = 0) -> Document:
    """The turns as an interleaved document: a picture, what is asked, and the answer, which is trained on.

    The first ``told`` turns are lines of text, as a language model has read them in its pretraining: with the
    gist in the place of the picture, or a plain caption of it where the answer needs more than a word.
    """
    parts: list[Part] = []
    for place, turn in enumerate(turns):
        answer = Text(" " + turn.answer, turn.knowable)
        if place < told:
            words = turn.gist or caption(turn.scene, PLAIN)
            parts += [Text(f"{words} {turn.prompt}", train=False), answer, Text("\n", train=False)]
        else:
            parts += [Image(draw(turn.scene)), Text(turn.prompt, train=False), answer]
    return Document(parts, id)


Described = Literal["plainly", "by gist"]


def tell(turns: Sequence[Turn], described: Described | None) -> str:
    """The turns as text, a line each; with plain words in the place of each picture, or the gist, or nothing."""
    return "".join(f"{_description(turn, described)}{turn.prompt} {turn.answer}\n" for turn in turns)


def _description(turn: Turn, described: Described | None) -> str:
    match described:
        case "plainly":
            return f"{caption(turn.scene, PLAIN)} "
        case "by gist":
            assert turn.gist is not None
            return f"{turn.gist} "
        case None:
            return ""


@dataclass(frozen=True)
class SyntheticDocuments(Sequence[Document]):
    """``length`` shown documents of one kind, of ``least`` to ``most`` turns, each a function of its index.

    ``told`` is the probability that a document begins with lines of text: its first turn, or more, never all.
    """

    kind: str
    split: Split
    seed: int
    least: int
    most: int
    told: float = 0.0
    length: int = 1_000_000

    def __post_init__(self) -> None:
        if self.kind not in TURNS:
            raise UserError(f"synthetic documents are of the kinds {', '.join(TURNS)}; got {self.kind!r}")
        _check_turns(self.least, self.most)
        if not 0 <= self.told <= 1:
            raise UserError(f"told is a probability, got {self.told}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]
        _check_index(index, self.length)
        rng, name = stream("shown", self.kind, self.split, self.seed, index)
        turns = TURNS[self.kind](rng, self.split, rng.randint(self.least, self.most))
        told = rng.randint(1, len(turns) - 1) if len(turns) > 1 and rng.random() < self.told else 0
        return show(turns, name, told)


def _told(kind: str, described: Described | None, most: int) -> Callable[[random.Random], str]:
    return lambda rng: tell(TURNS[kind](rng, "training", rng.randint(2, most)), described)


def _interrogation(rng: random.Random) -> str:
    """Scenes in plain words, and some of the questions about each."""
    text = ""
    for _ in range(rng.randint(1, 5)):
        scene = random_scene(rng, "training")
        asked = _asked(scene)
        text += f"{caption(scene, PLAIN)} {tell(rng.sample(asked, rng.randint(1, min(4, len(asked)))), None)}"
    return text


#: What a language model reads, with its weights. By tokens a quarter are questions and a fifth are drills.
_TEXTS = (
    (_told("captions", "plainly", 9), 0.05),
    # Without descriptions, too, for dialects as such.
    (_told("captions", None, 9), 0.05),
    (_interrogation, 0.16),
    (_told("binding", "plainly", 21), 0.14),
    (_told("binding", "by gist", 21), 0.18),
    (chant, 0.20),
    (recital, 0.22),
)


@dataclass(frozen=True)
class SyntheticTexts(Sequence[str]):
    """Told documents of the training split, of all kinds, and drills, to pretrain a language model on."""

    seed: int
    length: int = 1_000_000

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        _check_index(index, self.length)
        rng, _ = stream("told", self.seed, index)
        texts, weights = zip(*_TEXTS, strict=True)
        return rng.choices(texts, weights)[0](rng)


@dataclass(frozen=True)
class SyntheticContrasts(Sequence[list[tuple[Image, str]]]):
    """Groups of pictures with plain captions that differ in one thing each, to pretrain a vision encoder on."""

    seed: int
    group: int = 4
    length: int = 1_000_000

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[tuple[Image, str]]:  # type: ignore[override]
        _check_index(index, self.length)
        rng, _ = stream("contrasts", self.seed, index)
        scene = random_scene(rng, "training")
        others = neighbours(scene)
        scenes = [scene, *rng.sample(others, min(self.group - 1, len(others)))]
        # Each drawn anew: what has no name must not tell them apart.
        scenes = [Scene(s.kinds, s.axis, s.count, rng.getrandbits(32)) for s in scenes]
        return [(Image(draw(s)), caption(s, PLAIN)) for s in scenes]


def _check_turns(least: int, most: int) -> None:
    if not 0 < least <= most:
        raise UserError(f"documents need 0 < least <= most turns, got {least} and {most}")


def _check_index(index: int, length: int) -> None:
    """Iteration over a sequence ends with an IndexError."""
    if not 0 <= index < length:
        raise IndexError(f"index {index} of {length} documents")


#: An earlier name of the benchmark. It seeds random numbers, so another text would change every document.
_STREAM_PREFIX = "world"


def stream(*parts: object) -> tuple[random.Random, str]:
    """Returns a random generator that depends on ``parts`` alone, and the name that seeds it, an id of a document."""
    name = "/".join([_STREAM_PREFIX, *map(str, parts)])
    return random.Random(name), name
