"""Tasks of the synthetic benchmark: captions in unknown dialects, binding of names, questions.

Everything belongs to the evaluation split, which training never uses. A query depends only on its index.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from flamingo.data.document import Image
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.protocol import Example, Rank
from flamingo.synthetic import SyntheticBindingConfig, SyntheticTaskConfig
from flamingo.synthetic.documents import Turn, caption_turns, question_turns, random_names, stream
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.grammar import Dialect, attribute_accuracy, random_dialect
from flamingo.synthetic.scenes import SHAPES, Scene

#: The number of candidates for the demonstrations of a query, and of each name in binding.
CANDIDATES, CANDIDATES_PER_NAME = 32, 8
#: Distances from here on to the last demonstration of the right name are scored together.
_FAR = 5


@dataclass(frozen=True)
class Episode:
    """A query and the candidates for its demonstrations, in groups. The scene and dialect are for scoring."""

    query: Example
    support: list[list[Example]]
    #: Id of a candidate -> the words in place of its image.
    descriptions: dict[str, str]
    scene: Scene
    dialect: Dialect | None = None


@dataclass
class SyntheticTask(ABC):
    """``num_queries`` queries, each with its own support."""

    num_queries: int
    text_only: ClassVar[bool] = True
    measures_copying: ClassVar[bool] = True
    corpus_metrics: ClassVar[tuple[str, ...]] = ()
    language: ClassVar[str] = "en"

    @classmethod
    def from_config(cls, config: SyntheticTaskConfig, open_images: bool = True) -> "SyntheticTask":
        """Returns the task of a config. Synthetic images are drawn, so ``open_images`` has no effect."""
        return cls(config.num_queries)

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the task in result files."""

    @property
    @abstractmethod
    def stream_name(self) -> str:
        """The seed of the episodes' random numbers. It is data: it does not change with the task's name."""

    @abstractmethod
    def episode(self, rng: random.Random, name: str) -> Episode:
        """Returns the episode ``name``, drawn from its own generator."""

    @cached_property
    def episodes(self) -> dict[str, Episode]:
        """All episodes, by the id of their query."""
        by_query = {}
        for index in range(self.num_queries):
            rng, name = stream(self.stream_name, index)
            episode = self.episode(rng, name)
            by_query[episode.query.id] = episode
        return by_query

    @cached_property
    def _queries(self) -> list[Example]:
        return [episode.query for episode in self.episodes.values()]

    def queries(self) -> Sequence[Example]:
        """Returns all queries, always in the same order."""
        return self._queries

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns the candidates for this query's demonstrations, in groups."""
        return self.episodes[query.id].support

    def description(self, query: Example, example: Example) -> str:
        """Returns the words in place of the image of an example, as in training documents that begin with text."""
        return self.episodes[query.id].descriptions[example.id]


class SyntheticCaptions(SyntheticTask):
    """Captions in a dialect that only the demonstrations show."""

    name = "synthetic_captions"
    stream_name = "captions"
    max_new_tokens = 40
    corpus_metrics = ("CIDEr", "BLEU-1", "BLEU-4")

    def episode(self, rng: random.Random, name: str) -> Episode:
        """Returns a query and its candidates, all in one dialect."""
        dialect = random_dialect(rng, "evaluation")
        turns = caption_turns(rng, "evaluation", 1 + CANDIDATES, dialect)
        query, *support = _examples(turns, name)
        return Episode(query, [support], _descriptions(turns[1:], support), turns[0].scene, dialect)

    def cider(self, query: Example) -> CiderReward:
        """Returns CIDEr-D of captions, with the document frequencies of the query's candidates."""
        [support] = self.support(query)
        return CiderReward([example.references for example in support])

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``exact_match``, and ``attribute_accuracy`` over the attributes that the dialect mentions."""
        episode = self.episodes[query.id]
        assert episode.dialect is not None
        accuracy = attribute_accuracy(episode.scene, episode.dialect, output)
        return {"exact_match": float(output in query.references), "attribute_accuracy": accuracy}


@dataclass
class SyntheticBinding(SyntheticTask):
    """Fast binding (Frozen, arXiv 2106.13884): names that only the demonstrations bind to shapes, or to colours.

    The demonstrations of each of the ``num_ways`` names are a group.
    """

    num_ways: int = 2
    max_new_tokens: ClassVar[int] = 12
    text_only: ClassVar[bool] = False
    measures_copying: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: SyntheticTaskConfig, open_images: bool = True) -> "SyntheticBinding":
        """Returns the task of a config."""
        assert isinstance(config, SyntheticBindingConfig)
        return cls(config.num_queries, config.num_ways)

    @property
    def name(self) -> str:
        """The name of the task in result files."""
        return f"synthetic_binding_{self.num_ways}way"

    @property
    def stream_name(self) -> str:
        """The seed of the episodes' random numbers."""
        return f"binding/{self.num_ways}way"

    def episode(self, rng: random.Random, name: str) -> Episode:
        """Returns a query for one name, and candidates for each name."""
        meanings = random_names(rng, "evaluation", self.num_ways)
        support = []
        descriptions: dict[str, str] = {}
        for word, meaning in meanings.items():
            turns = []
            for _ in range(CANDIDATES_PER_NAME):
                turns.append(Turn(meaning.random_scene(rng), None, word, keyword=meaning.value))
            group = _examples(turns, f"{name}/{word}")
            support.append(group)
            descriptions |= _descriptions(turns, group)
        query_name = rng.choice(list(meanings))
        turn = Turn(meanings[query_name].random_scene(rng), None, query_name)
        [query] = _examples([turn], name)
        return Episode(query, support, descriptions, turn.scene)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``exact_match``, ``valid_name_rate`` (the output is a name of the prompt), and matches of subsets.

        ``exact_match_of_valid`` is over outputs that are names of the prompt. ``exact_match_distance_1``, ``_2``, ...
        are over queries by the distance to the last demonstration of the right name; 5 means 5 or more.
        """
        exact_match = float(output in query.references)
        names = [example.references[0] for example in reversed(prompt_examples)]
        scores = {"exact_match": exact_match, "valid_name_rate": float(output in names)}
        if output in names:
            scores["exact_match_of_valid"] = exact_match
        right_name = query.references[0]
        if right_name in names:
            distance = min(1 + names.index(right_name), _FAR)
            scores[f"exact_match_distance_{distance}"] = exact_match
        return scores


class SyntheticQuestions(SyntheticTask):
    """Short answers about colour, shape, size, position and number."""

    name = "synthetic_questions"
    stream_name = "questions"
    max_new_tokens = 4

    def turns(self, rng: random.Random, number: int) -> list[Turn]:
        """Returns questions, each about its own scene."""
        return question_turns(rng, "evaluation", number)

    def episode(self, rng: random.Random, name: str) -> Episode:
        """Returns a question and its candidates."""
        turns = self.turns(rng, 1 + CANDIDATES)
        query, *support = _examples(turns, name)
        return Episode(query, [support], _descriptions(turns[1:], support), turns[0].scene)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``exact_match``."""
        return {"exact_match": float(output in query.references)}


class SyntheticShapes(SyntheticQuestions):
    """Shapes as classes: which of all shapes is the answer to a question about one of two objects."""

    name = "synthetic_shapes"
    stream_name = "shapes"

    def turns(self, rng: random.Random, number: int) -> list[Turn]:
        """Returns questions about shapes, each about its own scene."""
        turns: list[Turn] = []
        while len(turns) < number:
            turns += [turn for turn in question_turns(rng, "evaluation", number) if turn.answer in SHAPES]
        return turns[:number]

    def rank(self, query: Example) -> Rank:
        """Returns all shapes as complete answers."""
        return Rank(SHAPES, end=True)


def _examples(turns: Sequence[Turn], name: str) -> list[Example]:
    examples = []
    for i, turn in enumerate(turns):
        examples.append(Example(f"{name}/{i}", Image(draw(turn.scene)), (turn.answer,), turn.prompt))
    return examples


def _descriptions(turns: Sequence[Turn], examples: Sequence[Example]) -> dict[str, str]:
    """Returns the description of each example, by its id."""
    return {example.id: turn.description for turn, example in zip(turns, examples, strict=True)}
