"""Documents depend on seed, split and index alone, the splits are disjoint, and answers are right."""

import random
import re
from collections import Counter, defaultdict
from itertools import combinations, islice

import pytest
from PIL import Image as PILImage

from flamingo import Image, Text
from flamingo.synthetic import documents
from flamingo.synthetic.documents import (
    TURNS,
    SyntheticContrasts,
    SyntheticDocuments,
    SyntheticTexts,
    Turn,
    binding_turns,
    caption_turns,
    question_turns,
    show,
    stream,
    tell,
)
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.grammar import PLAIN, Dialect, caption, parse
from flamingo.synthetic.scenes import COLOURS, SHAPES, Kind, Scene
from flamingo.utils.errors import UserError

STAR, RING = Kind("star", "red", "small"), Kind("ring", "blue", "large")
ONE, BESIDE = Scene((STAR,), None, 1, 5), Scene((STAR, RING), "horizontal", 2, 6)


def texts(document):
    return [part.text for part in document.parts if isinstance(part, Text)]


class Spy:
    """Notes every scene that is drawn or put into words, and every dialect that it is put into words in."""

    def __init__(self, monkeypatch):
        self.scenes, self.dialects = [], []
        monkeypatch.setattr(documents, "draw", self.draw)
        monkeypatch.setattr(documents, "caption", self.caption)

    def draw(self, scene):
        self.scenes.append(scene)
        return PILImage.new("RGB", (1, 1))

    def caption(self, scene, dialect):
        self.scenes.append(scene)
        self.dialects.append(dialect)
        return caption(scene, dialect)

    def combinations(self):
        """Which shapes and colours occurred together, and how many, in no order."""
        return {(*sorted((k.shape, k.colour) for k in s.kinds), s.axis is None and s.count) for s in self.scenes}


@pytest.fixture
def spy(monkeypatch):
    return lambda: Spy(monkeypatch)


def names_in(lines):
    return {name for line in lines for name in re.findall(r"[A-Z][a-z] [A-Z][a-z]\b", line)}


def test_training_shows_nothing_of_what_evaluation_is_about(spy):
    training, said = spy(), []
    for kind in TURNS:
        for document in islice(SyntheticDocuments(kind, "training", 0, 4, 12), 130):
            said += texts(document)
    said += islice(SyntheticTexts(0), 800)
    for group in islice(SyntheticContrasts(0), 100):
        said += [text for _, text in group]
    evaluation, asked = spy(), []
    for kind in ("captions", "questions"):
        for document in islice(SyntheticDocuments(kind, "evaluation", 0, 4, 12), 60):
            asked += texts(document)
    assert len(training.combinations()) > 1200 and len(evaluation.combinations()) > 120
    assert not training.combinations() & evaluation.combinations()
    learned, unknown = ({dialect.canonical for dialect in s.dialects} for s in (training, evaluation))
    assert PLAIN in learned and len(learned) > 180 and len(unknown) == 60
    assert not learned & unknown
    # Bound names are shown on scenes of either split, but are not themselves known.
    bound = [t for d in islice(SyntheticDocuments("binding", "evaluation", 0, 4, 12), 60) for t in texts(d)]
    assert len(names_in(said)) > 400 and len(names_in(bound)) > 120
    assert not names_in(bound) & names_in(said)


def test_captions_of_a_document_share_their_dialect(spy):
    noted, seen = spy(), set()
    for seed in range(60):
        noted.dialects.clear()
        turns = caption_turns(random.Random(seed), "training", 7)
        assert len(turns) == 7 and len(set(noted.dialects)) == 1
        (dialect,) = set(noted.dialects)
        assert [turn.answer for turn in turns] == [caption(turn.scene, dialect) for turn in turns]
        assert all(turn.answerable and turn.prompt is None for turn in turns)
        seen.add(dialect)
    assert len(seen) == 60
    given = caption_turns(random.Random(0), "evaluation", 3, Dialect(order=1))
    assert [turn.answer for turn in given] == [caption(turn.scene, Dialect(order=1)) for turn in given]


# ---------------------------------------------------------------------------------- binding


def test_a_name_means_one_shape_or_colour_and_the_rest_varies():
    bound, ways = Counter(), Counter()
    for seed in range(60):
        turns = binding_turns(random.Random(seed), "training", 120)
        objects, gists = defaultdict(list), defaultdict(set)
        for turn in turns:
            (kind,) = turn.scene.kinds
            assert turn.scene.count == 1 and turn.prompt is None
            assert re.fullmatch("[BDFGKLMNPRSTVZ][aeiou] [BDFGKLMNPRSTVZ][aeiou]", turn.answer)
            assert turn.keyword in (kind.shape, kind.colour)
            objects[turn.answer].append(kind)
            gists[turn.answer].add(turn.keyword)
        values = {
            a: [{getattr(k, a) for k in kinds} for kinds in objects.values()] for a in ("shape", "colour", "size")
        }
        (attribute,) = (a for a, sets in values.items() if all(len(values) == 1 for values in sets))
        assert len(set.union(*values[attribute])) == len(objects), "two names for the same"
        assert values[attribute] == list(gists.values())
        for other in values.keys() - {attribute}:  # of which the name says nothing
            assert all(len(values) >= (2 if other == "size" else 5) for values in values[other])
        syllables = [syllable for name in objects for syllable in name.split()]
        assert len(set(syllables)) == 2 * len(objects), "a syllable of one name is also in another"
        bound[attribute] += 1
        ways[len(objects)] += 1
    assert bound.keys() == {"shape", "colour"} and min(bound.values()) > 15
    assert ways.keys() == {2, 3, 4, 5} and min(ways.values()) > 4


def test_a_name_is_trained_on_from_its_second_use():
    for seed in range(15):
        turns = binding_turns(random.Random(seed), "training", 12)
        answers = [turn.answer for turn in turns]
        assert [turn.answerable for turn in turns] == [answer in answers[:i] for i, answer in enumerate(answers)]
        trained = [part.train for part in show(turns).parts[2::3]]
        assert trained == [turn.answerable for turn in turns] and not trained[0]


# -------------------------------------------------------------------------------- questions


def answer_to(question, scene):
    """Returns the one right answer, computed independently from the objects that the question can mean."""
    words = question.removesuffix("?").split()
    kinds = list(scene.kinds)
    meant = [
        i for i, kind in enumerate(kinds) if {kind.colour, kind.shape, kind.shape + "s", kind.shape + "es"} & {*words}
    ]
    assert len(meant) == 1, f"{question} may mean {meant}"
    kind = kinds[meant[0]]
    if words[0] == "where":
        return {"horizontal": ("left", "right"), "vertical": ("above", "below")}[scene.axis][meant[0]]
    if words[:2] == ["how", "many"]:
        return ["one", "two", "three", "four"][scene.count - 1]
    return getattr(kind, words[1])  # what colour, what size, what shape


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what colour is the star?", "red"),
        ("what size is the ring?", "large"),
        ("what shape is blue?", "ring"),
        ("where is the star?", "left"),
        ("where is the blue one?", "right"),
    ],
)
def test_questions_of_a_pair_are_asked_and_answered(monkeypatch, question, answer):
    monkeypatch.setattr(documents, "random_scene", lambda rng, split: BESIDE)
    asked = {turn.prompt: turn.answer for turn in question_turns(random.Random(0), "training", 200)}
    assert len(asked) == 10  # five of either object
    assert asked[f"Question: {question} Answer:"] == answer == answer_to(question, BESIDE)


def test_answers_are_right():
    sorts = Counter()
    for turn in question_turns(random.Random(0), "training", 3000):
        question = re.fullmatch(r"Question: (.*) Answer:", turn.prompt)[1]
        assert turn.answer == answer_to(question, turn.scene), (question, turn.scene)
        assert turn.answerable
        plural = turn.scene.axis is None and turn.scene.count > 1 and "many" not in question
        assert plural == (" are " in question and "many" not in question)
        sorts[question.split()[0], question.split()[1].replace("is", ""), turn.scene.axis] += 1
    assert min(sorts.values()) > 60
    assert len(sorts) == 3 + 2 * 4  # of one kind: colour, size, number; of a pair: colour, size, shape, place


# --------------------------------------------------------------------------- images and texts


def test_turns_are_images_with_answers_that_are_trained_on():
    turns = [Turn(ONE, "Output:", "Be Ru", answerable=False), Turn(BESIDE, "Question: why? Answer:", "red")]
    document = show(turns, "d")
    assert document.id == "d"
    assert document.parts == (
        Image(draw(ONE)),
        Text("Output:", train=False),
        Text(" Be Ru", train=False),
        Image(draw(BESIDE)),
        Text("Question: why? Answer:", train=False),
        Text(" red", train=True),
    )


def test_first_turns_may_be_text_that_the_language_model_knows():
    turns = [
        Turn(ONE, "Output:", "Be Ru", answerable=False, keyword="star"),
        Turn(BESIDE, "Output:", "Ba Do"),
        Turn(ONE, "Output:", "Be Ru", keyword="star"),
    ]
    document = show(turns, num_text_turns=2)
    assert document.parts == (
        Text("star Output:", train=False),
        Text(" Be Ru", train=False),
        Text("\n", train=False),
        Text("a small red star left of a large blue ring Output:", train=False),
        Text(" Ba Do"),
        Text("\n", train=False),
        Image(draw(ONE)),
        Text("Output:", train=False),
        Text(" Be Ru"),
    )
    prefix = "".join(part.text for part in document.parts[:3])
    assert prefix == tell(turns[:1], "keyword")


def test_some_documents_begin_with_text_and_end_with_images():
    pictures = [
        len([part for part in document.parts if isinstance(part, Image)])
        for document in islice(SyntheticDocuments("binding", "training", 0, 4, 4, text_prefix_prob=0.5), 100)
    ]
    counts = Counter(pictures)
    assert set(counts) == {1, 2, 3, 4} and 35 < counts[4] < 65
    (alone,) = islice(SyntheticDocuments("binding", "training", 0, 1, 1, text_prefix_prob=1.0), 1)
    assert isinstance(alone.parts[0], Image)


def test_each_turn_is_a_line_of_text():
    turns = [
        Turn(ONE, "Output:", "Be Ru", False, "star"),
        Turn(BESIDE, "Question: why? Answer:", "red", keyword="ring"),
    ]
    assert tell(turns, None) == "Output: Be Ru\nQuestion: why? Answer: red\n"
    assert tell(turns, "caption") == (
        "a small red star Output: Be Ru\na small red star left of a large blue ring Question: why? Answer: red\n"
    )
    assert tell(turns, "keyword") == "star Output: Be Ru\nring Question: why? Answer: red\n"


def test_texts_are_of_all_kinds_and_contain_the_answers():
    sorts, turns = Counter(), defaultdict(set)
    for text in islice(SyntheticTexts(3), 2000):
        assert text.endswith("\n")
        first = text.split("\n")[0]
        if ":" not in first:
            sorts["drill"] += 1
            continue
        sort = "binding" if names_in([first]) else "questions" if "Question: " in first else "captions"
        described, _, _ = first.partition("Question:" if sort == "questions" else "Output:")
        how = "keyword" if described.strip() in SHAPES + COLOURS else "caption" if described else "nothing"
        if how == "caption":
            assert {"count", "axis"} & parse(described).keys()
        sorts[sort, how] += 1
        turns[sort].add(text.count("\n"))
    wanted = {("captions", "caption"): 100, ("captions", "nothing"): 100, ("questions", "caption"): 320}
    wanted |= {("binding", "caption"): 280, ("binding", "keyword"): 360, "drill": 840}
    assert sorts.keys() == wanted.keys()
    assert all(abs(sorts[sort] - number) < 60 for sort, number in wanted.items()), sorts
    assert turns["captions"] == {*range(2, 10)} and turns["binding"] == {*range(2, 22)}
    assert min(turns["questions"]) == 1 and max(turns["questions"]) > 12


def test_a_seed_tells_the_same_everywhere():
    """Literal values: backbones are trained on what these seeds give."""
    assert SyntheticTexts(0)[29] == "cross Output: Nu Du\nsquare Output: To Me\ncross Output: Nu Du\n"
    document = SyntheticDocuments("captions", "evaluation", 0, 2, 2)[0]
    assert document.id == "world/shown/captions/evaluation/0/0"
    assert texts(document)[1::2] == [
        " this shows one big golden hoop north of one big ebony wedge, nothing more.",
        " this shows one little ivory valentine west of one little violet crescent, nothing more.",
    ]
    assert stream("a", 1)[0].random() == stream("a", 1)[0].random() != stream("a", 2)[0].random()


def test_documents_depend_on_seed_kind_split_and_index_alone():
    settings = [(kind, split, seed) for kind in TURNS for split in ("training", "evaluation") for seed in (0, 1)]
    forth = {s: [SyntheticDocuments(*s, 2, 3)[index] for index in range(3)] for s in settings}
    for s in reversed(settings):
        again = SyntheticDocuments(*s, 2, 3)
        assert [again[2], again[0], again[1]] == [forth[s][2], forth[s][0], forth[s][1]]
    different = [texts(document) for documents in forth.values() for document in documents]
    pictures = [document.parts[0] for documents in forth.values() for document in documents]
    assert all(one != other for one, other in combinations(different, 2))
    assert all(one != other for one, other in combinations(pictures, 2))
    assert SyntheticTexts(0)[3] == SyntheticTexts(0)[3] != SyntheticTexts(1)[3]
    assert SyntheticContrasts(0)[3] == SyntheticContrasts(0)[3] != SyntheticContrasts(1)[3]


def test_contrasts_are_hard_and_drawn_anew(spy):
    (picture, _), _ = SyntheticContrasts(0, group_size=2)[0]
    assert picture.frames[0].size == (64, 64)
    noted, together = spy(), Counter()
    for group in islice(SyntheticContrasts(0), 150):
        captions = [text for _, text in group]
        assert len(group) == 4 == len(set(captions))
        first, *others = map(parse, captions)
        for other in others:  # a word, a number or a place; or two values exchanged
            together[sum(first[name] != value for name, value in other.items())] += 1
    assert {scene.split for scene in noted.scenes} == {"training"} and set(noted.dialects) == {PLAIN}
    assert together.keys() <= {1, 2, 4, 5, 6, 7} and together[1] > together.total() / 2
    assert len({scene.seed for scene in noted.scenes}) == 600


def test_documents_have_as_many_turns_as_asked_and_end():
    drawn = list(SyntheticDocuments("questions", "training", 0, 2, 4, length=40))
    assert len(drawn) == 40 and {len(document.parts) / 3 for document in drawn} == {2, 3, 4}
    assert len(list(SyntheticTexts(0, length=5))) == len(list(SyntheticContrasts(0, length=5))) == 5
    for sequence in (SyntheticDocuments("captions", "training", 0, 1, 1, length=5), SyntheticTexts(0, length=5)):
        for index in (5, -1):
            with pytest.raises(IndexError, match=f"index {index} of 5"):
                sequence[index]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SyntheticDocuments("riddles", "training", 0, 1, 2), "'riddles'"),
        (lambda: SyntheticDocuments("captions", "training", 0, 0, 2), r"min_images.*max_images.*0.*2"),
        (lambda: SyntheticDocuments("captions", "training", 0, 3, 2), r"min_images.*max_images.*3.*2"),
        (lambda: SyntheticDocuments("captions", "training", 0, 1, 2, text_prefix_prob=1.5), r"text_prefix_prob.*1.5"),
    ],
)
def test_documents_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
