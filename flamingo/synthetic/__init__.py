"""The synthetic benchmark of in-context learning: scenes that the code draws, with captions from a grammar.

``scenes`` defines what can be shown, ``drawing`` draws it, ``grammar`` describes it in words and parses them,
``documents`` makes interleaved documents of both. Everything is a pure function of a seed.
"""

from dataclasses import dataclass

from flamingo.data.builders import DocumentsConfig
from flamingo.utils.checks import probability
from flamingo.utils.kinds import Kinds


@dataclass(kw_only=True)
class SyntheticDocumentsConfig(DocumentsConfig):
    """Documents of the synthetic benchmark: captions in one dialect, nonce names, or questions."""

    #: The probability that a document begins with lines of text instead of images.
    text_prefix_prob: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        probability("text_prefix_prob", self.text_prefix_prob)


BUILDERS: Kinds = {
    "synthetic_captions": (SyntheticDocumentsConfig, "flamingo.synthetic.documents:SyntheticDocuments"),
    "synthetic_binding": (SyntheticDocumentsConfig, "flamingo.synthetic.documents:SyntheticDocuments"),
    "synthetic_questions": (SyntheticDocumentsConfig, "flamingo.synthetic.documents:SyntheticDocuments"),
}
