"""The synthetic benchmark of in-context learning: scenes that the code draws, with captions from a grammar.

``scenes`` defines the possible scenes, ``drawing`` draws them, ``grammar`` describes them in words and parses the
words, ``documents`` makes interleaved documents of both. Everything is a pure function of a seed.
"""

from dataclasses import dataclass, replace
from typing import Self

from flamingo.data.builders import DocumentsConfig
from flamingo.evaluation.tasks import TaskConfig
from flamingo.synthetic.scenes import SHAPES
from flamingo.utils.checks import probability, whole
from flamingo.utils.kinds import Kinds


@dataclass(kw_only=True)
class SyntheticDocumentsConfig(DocumentsConfig):
    """Documents of the synthetic benchmark: captions in one dialect, nonce names, or questions."""

    #: Probability that a document begins with lines of text instead of images.
    text_prefix_prob: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        probability("text_prefix_prob", self.text_prefix_prob)

    def of_size(self, num_images: int) -> Self:
        """Returns the config of documents that all have ``num_images`` images and no lines of text."""
        return replace(super().of_size(num_images), text_prefix_prob=0.0)


#: ``kind -> (config dataclass, "module:Class")``.
BUILDERS: Kinds = {
    "synthetic_captions": (SyntheticDocumentsConfig, "flamingo.synthetic.documents:SyntheticDocuments"),
    "synthetic_binding": (SyntheticDocumentsConfig, "flamingo.synthetic.documents:SyntheticDocuments"),
    "synthetic_questions": (SyntheticDocumentsConfig, "flamingo.synthetic.documents:SyntheticDocuments"),
}


@dataclass(kw_only=True)
class SyntheticTaskConfig(TaskConfig):
    """A task of captions or questions. Each query has its own support."""

    #: The number of queries.
    num_queries: int

    def __post_init__(self) -> None:
        whole("num_queries", self.num_queries, least=1)


@dataclass(kw_only=True)
class SyntheticBindingConfig(SyntheticTaskConfig):
    """A task of nonce names that only the demonstrations define."""

    #: The number of names in an episode.
    num_ways: int

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("num_ways", self.num_ways, least=2, most=len(SHAPES))


#: ``kind -> (config dataclass, "module:Class")``.
TASKS: Kinds = {
    "synthetic_captions": (SyntheticTaskConfig, "flamingo.synthetic.tasks:SyntheticCaptions"),
    "synthetic_binding": (SyntheticBindingConfig, "flamingo.synthetic.tasks:SyntheticBinding"),
    "synthetic_questions": (SyntheticTaskConfig, "flamingo.synthetic.tasks:SyntheticQuestions"),
    "synthetic_shapes": (SyntheticTaskConfig, "flamingo.synthetic.tasks:SyntheticShapes"),
}
