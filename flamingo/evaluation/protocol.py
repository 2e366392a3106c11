"""What a task of few-shot evaluation is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from flamingo.data.document import PROMPT, Image


@dataclass(frozen=True)
class Example:
    """A picture with what may be said of it: a query, or a demonstration, which says the first of its references.

    ``prompt`` is what the text after the image begins with: ``Output:``, ``Question: ...? Answer:``.
    """

    id: str
    image: Image
    references: tuple[str, ...]
    prompt: str = PROMPT

    def with_caption(self, caption: str) -> "Example":
        """Returns the example with a single reference."""
        return replace(self, references=(caption,))


@runtime_checkable
class Task(Protocol):
    """Queries, what may be shown before them, and how the outputs are scored."""

    #: As in the score files: ``synthetic_captions``, ``flickr8k``, ...
    name: str
    max_new_tokens: int
    #: Whether the 0-shot variant makes sense that shows two demonstrations without their images
    #: (Flamingo, section 3.1).
    text_only: bool
    #: Metrics of all outputs together, of ``metrics.CORPUS_METRICS``; or none.
    corpus_metrics: tuple[str, ...]

    def queries(self) -> Sequence[Example]:
        """All queries, always in the same order; their ids are unique."""
        ...

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Candidates for this query's demonstrations, never the query itself.

        In groups of which all are shown equally often: one group for captioning, one per name in a
        binding task.
        """
        ...

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """The task's own metrics of one output; one that does not apply to it is left out.

        ``prompt_examples`` are the demonstrations as they were shown: with the one caption that the
        prompt holds, and with swapped images or captions under the controls.
        """
        ...


@runtime_checkable
class RetrievalTask(Task, Protocol):
    """A task whose demonstrations can be chosen by what the query shows."""

    def similar(self, query: Example, number: int) -> Sequence[Example]:
        """The candidates most similar to the query, the most similar first; never its duplicates."""
        ...
