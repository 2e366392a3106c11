"""Tasks of the synthetic benchmark: captions in unknown dialects, new names for what is shown, questions.

All of it is of the evaluation split, which training never sees; every query is a function of its index.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from flamingo.data.document import PROMPT, Image
from flamingo.evaluation.protocol import Example
from flamingo.synthetic import SyntheticBindingConfig, SyntheticTaskConfig
from flamingo.synthetic.documents import Turn, caption_turns, question_turns, random_names, stream
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.grammar import Dialect, attribute_accuracy, random_dialect
from flamingo.synthetic.scenes import Scene

#: Candidates for the demonstrations of a query; of binding for each name.
CANDIDATES, CANDIDATES_PER_NAME = 32, 8
#: From here on distances to the last demonstration of the right name are scored together.
_FAR = 5


@dataclass(frozen=True)
class Episode:
    """A query and the candidates for its demonstrations, in groups; with what only scoring knows."""

    query: Example
    support: list[list[Example]]
    scene: Scene
    dialect: Dialect | None = None


@dataclass
class SyntheticTask(ABC):
    """``num_queries`` queries, each with a support of its own."""

    num_queries: int
    text_only: ClassVar[bool] = True
    corpus_metrics: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, config: SyntheticTaskConfig) -> "SyntheticTask":
        """Returns the task of a config."""
        return cls(config.num_queries)

    @property
    @abstractmethod
    def name(self) -> str:
        """As in the score files."""

    @property
    @abstractmethod
    def stream_name(self) -> str:
        """What seeds the episodes' random numbers: data, which a new name of the task leaves as it is."""

    @abstractmethod
    def episode(self, rng: random.Random, name: str) -> Episode:
        """The episode called ``name``, from its own random numbers."""

    @cached_property
    def episodes(self) -> dict[str, Episode]:
        """All episodes, by the id of their query."""
        made = [self.episode(*stream(self.stream_name, index)) for index in range(self.num_queries)]
        return {episode.query.id: episode for episode in made}

    @cached_property
    def _queries(self) -> list[Example]:
        return [episode.query for episode in self.episodes.values()]

    def queries(self) -> Sequence[Example]:
        return self._queries

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        return self.episodes[query.id].support


class SyntheticCaptions(SyntheticTask):
    """A caption in a dialect that can only be known from the demonstrations."""

    name = "synthetic_captions"
    stream_name = "captions"
    max_new_tokens = 40
    corpus_metrics = ("CIDEr", "BLEU-1", "BLEU-4")

    def episode(self, rng: random.Random, name: str) -> Episode:
        dialect = random_dialect(rng, "evaluation")
        turns = caption_turns(rng, "evaluation", 1 + CANDIDATES, dialect)
        query, *support = _examples(turns, name)
        return Episode(query, [support], turns[0].scene, dialect)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """``exact_match``, and ``attribute_accuracy``: the share of what the dialect mentions that is right."""
        episode = self.episodes[query.id]
        assert episode.dialect is not None
        right = attribute_accuracy(episode.scene, episode.dialect, output)
        return {"exact_match": float(output in query.references), "attribute_accuracy": right}


@dataclass
class SyntheticBinding(SyntheticTask):
    """A name that the demonstrations alone bind, to a shape or to a colour: fast binding (Frozen, arXiv 2106.13884).

    The demonstrations come in a group for each of the ``num_ways`` names.
    """

    num_ways: int = 2
    max_new_tokens: ClassVar[int] = 12
    text_only: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: SyntheticTaskConfig) -> "SyntheticBinding":
        """Returns the task of a config."""
        assert isinstance(config, SyntheticBindingConfig)
        return cls(config.num_queries, config.num_ways)

    @property
    def name(self) -> str:
        return f"synthetic_binding_{self.num_ways}way"

    @property
    def stream_name(self) -> str:
        return f"binding/{self.num_ways}way"

    def episode(self, rng: random.Random, name: str) -> Episode:
        meanings = random_names(rng, "evaluation", self.num_ways)
        support = [
            _examples([Turn(scene(rng), PROMPT, word) for _ in range(CANDIDATES_PER_NAME)], f"{name}/{word}")
            for word, (_, scene) in meanings.items()
        ]
        asked = rng.choice(list(meanings))
        turn = Turn(meanings[asked][1](rng), PROMPT, asked)
        return Episode(_examples([turn], name)[0], support, turn.scene)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """``exact_match``; ``valid_name_rate``: is it a name that occurs in the prompt; and the match among those.

        ``exact_match_distance_1``, ``_2``, ...: the match, by how many demonstrations ago the right name
        was last shown; 5 stands for 5 and more.
        """
        match = float(output in query.references)
        names = [example.references[0] for example in reversed(prompt_examples)]
        scores = {"exact_match": match, "valid_name_rate": float(output in names)}
        if output in names:
            scores["exact_match_of_valid"] = match
        if query.references[0] in names:
            scores[f"exact_match_distance_{min(1 + names.index(query.references[0]), _FAR)}"] = match
        return scores


class SyntheticQuestions(SyntheticTask):
    """Short answers about colour, shape, size, place and number."""

    name = "synthetic_questions"
    stream_name = "questions"
    max_new_tokens = 4

    def episode(self, rng: random.Random, name: str) -> Episode:
        turns = question_turns(rng, "evaluation", 1 + CANDIDATES)
        query, *support = _examples(turns, name)
        return Episode(query, [support], turns[0].scene)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        return {"exact_match": float(output in query.references)}


def _examples(turns: Sequence[Turn], name: str) -> list[Example]:
    return [
        Example(f"{name}/{i}", Image(draw(turn.scene)), (turn.answer,), turn.prompt) for i, turn in enumerate(turns)
    ]
