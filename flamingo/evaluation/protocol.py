"""What a task of few-shot evaluation is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image

if TYPE_CHECKING:  # configs import this module, and need no torch
    from flamingo.data.processor import FlamingoProcessor
    from flamingo.data.record import Record
    from flamingo.inference.features import FeatureStore
    from flamingo.inference.retrieval import NamedPair


@dataclass(frozen=True)
class Example:
    """A picture with what may be said of it: a query, or a demonstration, which says the first of its references.

    ``prompt`` is what the text after the image begins with, such as ``Question: ...? Answer:``. None: the reference is
    a caption, and the template of captions has the prompt.
    """

    id: str
    image: Image
    references: tuple[str, ...]
    prompt: str | None = None

    def question(self, template: CaptionTemplate) -> str:
        """Returns the text that the model continues."""
        return template.prompt if self.prompt is None else self.prompt

    def answered(self, template: CaptionTemplate) -> str:
        """Returns the text with the first of the references."""
        answer = self.references[0]
        return template.filled(answer) if self.prompt is None else f"{self.prompt} {answer}"

    def with_caption(self, caption: str) -> "Example":
        """Returns the example with a single reference."""
        return replace(self, references=(caption,))


@runtime_checkable
class Task(Protocol):
    """Queries, what may be shown before them, and how the outputs are scored."""

    #: As in the score files: ``synthetic_captions``, ``flickr8k``, ...
    name: str
    #: The largest number of tokens of an output, unless the evaluation says otherwise.
    max_new_tokens: int
    #: Whether the 0-shot variant makes sense that shows two demonstrations without their images
    #: (Flamingo, section 3.1).
    text_only: bool
    #: Metrics of all outputs together, of ``metrics.CORPUS_METRICS``; or none.
    corpus_metrics: tuple[str, ...]
    #: The code of the language of the captions, such as ``en``, by which corpus metrics choose their tokens.
    language: str

    @classmethod
    def from_config(cls, config: Any, open_images: bool = True) -> "Task":
        """Returns the task of its config dataclass.

        Args:
            config: The config of this kind of task.
            open_images: Whether image files are opened, so that broken ones are found now.

        Raises:
            UserError: For data that cannot be read.
        """
        ...

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


@runtime_checkable
class RecordTask(RetrievalTask, Protocol):
    """A task whose queries and demonstrations are made of records, such as photographs with captions.

    The evaluation records checksums of its data, leaves out unusable records, and computes features of its images.
    """

    #: The records of the queries.
    query_records: "Sequence[Record]"
    #: The records that demonstrations are made of.
    support_records: "Sequence[Record]"
    #: For each record that was left out its id, and the reason.
    skipped: Mapping[str, str]

    def fitting(self, processor: "FlamingoProcessor", template: CaptionTemplate, max_new_tokens: int) -> "RecordTask":
        """Returns the task without the records of the support that no prompt can show, which are skipped.

        Args:
            processor: Counts tokens.
            template: The template of captions.
            max_new_tokens: The tokens that are generated after a prompt.
        """
        ...

    def index(
        self, features: "FeatureStore", num_neighbours: int, training_records: "Sequence[Record]"
    ) -> "dict[str, list[NamedPair]]":
        """Finds the duplicates of the queries, which are never shown, and what :meth:`similar` returns.

        Args:
            features: The features of the images of all records, which were added before.
            num_neighbours: The number of similar candidates for each query; 0: only duplicates are searched.
            training_records: The records that the model was trained on.

        Returns:
            The near-duplicates of queries: in the support, among the queries, and in the training records.
        """
        ...
