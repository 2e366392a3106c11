"""Engine: the protocol that the evaluation needs of a model, and that of a model whose attention it can measure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from flamingo.data.document import Document
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.model.sampling import Sampling


@runtime_checkable
class Engine(Protocol):
    """Continues prompts of images and text, and scores candidates for their continuations."""

    def generate(
        self,
        prompts: Sequence[Document],
        max_new_tokens: int,
        num_beams: int = 1,
        blind: bool = False,
        on_progress: Callable[[int], object] | None = None,
        min_new_tokens: int = 0,
        sampling: Sampling | None = None,
        length_penalty: float = 0.0,
    ) -> list[str]:
        """Returns the continuation of each prompt.

        Args:
            prompts: Documents that end where the continuation begins. Sampled tokens depend on their ids.
            max_new_tokens: The largest number of tokens of a continuation.
            num_beams: The number of beams; 1: greedy decoding.
            blind: Whether no token attends to any image; the prompts keep their image markers.
            on_progress: Called with the size of each batch that is done.
            min_new_tokens: The smallest number of tokens of a continuation.
            sampling: How tokens are drawn; None: search for the most likely continuation. Sampling has one beam.
            length_penalty: The log-probability of a beam is divided by its length to this power.

        Raises:
            UserError: For a broken image, and for a prompt that leaves no room for ``max_new_tokens``.
        """
        ...

    def score(
        self,
        prompts: Sequence[Document],
        candidates: Sequence[Sequence[str]],
        end: bool = False,
        prior: bool = True,
        blind: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[CandidateScores]:
        """Returns the log-likelihoods of the candidates of each prompt.

        The tokens of a candidate are those of prompt and candidate together, after the prompt's.

        Args:
            prompts: Documents that end where the candidates begin.
            candidates: The candidates of each prompt, as texts that follow it: most begin with a space.
            end: Whether the token that ends a chunk follows each candidate.
            prior: Whether candidates are also scored with the query's images unseen by any token: the last image, and
                the images that share its text.
            blind: Whether no token attends to any image; the prompts keep their image markers.
            on_progress: Called with the number of prompts that each batch has completed.

        Raises:
            UserError: For a broken image, a prompt that leaves no room for a candidate, and a candidate whose first
                token begins within the prompt.
        """
        ...


class AttentionKey(NamedTuple):
    """What a measure of attention is of."""

    #: ``GATED_ENTROPY``, ``GATED_NORM`` or ``SELF_ATTENTION`` of :mod:`flamingo.measure_rows`.
    name: str
    #: The index of the layer of the language model.
    layer: int
    #: The part of the prompt that is attended to; None: the measure has no parts.
    part: str | None = None
    #: The distance of the part's demonstration from the query; None: not of a demonstration.
    distance: int | None = None


AttentionMeasures = dict[AttentionKey, float]
"""The measures of the attention of the last token of a prompt. Shares of self-attention sum to 1 in each layer."""


@runtime_checkable
class InspectingEngine(Engine, Protocol):
    """An engine that also measures attention."""

    def attention(self, prompts: Sequence[Document]) -> list[AttentionMeasures]:
        """Returns the measures of the attention of the last token of each prompt.

        Args:
            prompts: Documents whose last chunks are the queries, and whose other chunks are demonstrations.

        Raises:
            UserError: For a broken image, and for a prompt with too many tokens.
        """
        ...
