"""The protocol of a task of few-shot evaluation, and its examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.inference.candidate_scores import RANKED_BY
from flamingo.utils.errors import UserError

if TYPE_CHECKING:  # configs import this module, and need no torch
    from flamingo.data.processor import FlamingoProcessor
    from flamingo.data.records.record import Record
    from flamingo.evaluation.metrics.cider import CiderReward
    from flamingo.evaluation.metrics.row_metrics import RowMetric
    from flamingo.inference.features import FeatureStore
    from flamingo.inference.retrieval import NamedPair
    from flamingo.inference.vector_store import VectorStore


@dataclass(frozen=True)
class Example:
    """A picture with its reference texts: a query, or a demonstration, which shows the first of its references.

    ``later_images`` follow the picture in the same chunk, where a text is about several.

    ``prompt`` is the beginning of the text after the image, such as ``Question: ...? Answer:``. None: the reference is
    a caption, and the template of captions has the prompt. ``description`` is the text that prompts show in place
    of the image; None: the image. ``answer_start`` is the text between prompt and answer. ``group`` names the queries
    whose outputs also have scores of their own; None: no group. ``draw_id`` is the id that random draws depend on:
    queries with an equal one have the same random demonstrations; None: the example's own id.
    """

    id: str
    image: Image
    references: tuple[str, ...]
    prompt: str | None = None
    description: str | None = None
    answer_start: str = " "
    group: str | None = None
    later_images: tuple[Image, ...] = ()
    draw_id: str | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in the order of the prompt."""
        return (self.image, *self.later_images)

    def with_images(self, images: tuple[Image, ...]) -> "Example":
        """Returns the example with other images."""
        return replace(self, image=images[0], later_images=images[1:])

    def question(self, template: CaptionTemplate) -> str:
        """Returns the text that the model continues."""
        return template.prompt if self.prompt is None else self.prompt

    def answered(self, template: CaptionTemplate) -> str:
        """Returns the text with the first of the references."""
        answer = self.references[0]
        return template.filled(answer) if self.prompt is None else self.prompt + self.answer_start + answer

    def with_caption(self, caption: str) -> "Example":
        """Returns the example with a single reference."""
        return replace(self, references=(caption,))


@dataclass(frozen=True)
class Rank:
    """Asks for the best of some candidates, by their log-likelihoods, in place of a generated output."""

    #: The candidates as answers, without the space that follows a prompt.
    candidates: tuple[str, ...]
    #: The value that ranks them: ``sum``, ``mean`` (per token) or ``minus_prior``.
    by: str = "sum"
    #: Whether the token that ends a chunk follows each candidate.
    end: bool = False
    #: The largest number of orders of the demonstrations whose log-likelihoods are averaged; 1: no prompt ensembling.
    ensembled_orders: int = 1

    def __post_init__(self) -> None:
        assert self.candidates and self.by in RANKED_BY and self.ensembled_orders > 0


@runtime_checkable
class Task(Protocol):
    """Queries, the candidates for their demonstrations, and the scoring of outputs."""

    #: The name in the result files: ``synthetic_captions``, ``flickr8k``, ...
    name: str
    #: The largest number of tokens of an output, unless the evaluation sets it.
    max_new_tokens: int
    #: Whether 0 shots can be run with two demonstrations without their images (Flamingo, section 3.1).
    text_only: bool
    #: Whether copy rates are measured: how often outputs equal the text of a demonstration. Not for binding, where the
    #: right output is such a text.
    measures_copying: bool
    #: Metrics of all outputs together: names of :data:`flamingo.evaluation.metrics.METRICS`.
    corpus_metrics: tuple[str, ...]
    #: The code of the captions' language, such as ``en``. It determines the tokens of corpus metrics.
    language: str

    @classmethod
    def from_config(cls, config: Any, open_images: bool = True) -> "Task":
        """Returns the task of its config dataclass.

        Args:
            config: The config of this kind of task.
            open_images: Whether image files are opened, so that broken ones are found now.

        Raises:
            UserError: If data cannot be read.
        """
        ...

    def queries(self) -> Sequence[Example]:
        """Returns all queries, always in the same order. Their ids are unique."""
        ...

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns the candidates for this query's demonstrations in groups. The query itself is never among them.

        Prompts show equal numbers of each group. Captioning has one group, a binding task one per name.
        """
        ...

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns the task's own metrics of one output, without metrics that do not apply to it.

        Args:
            query: The query.
            prompt_examples: The demonstrations as they were shown: with the one caption in the prompt, and with swapped
                images or captions under the controls.
            output: The output.
        """
        ...


@runtime_checkable
class RowScoredTask(Task, Protocol):
    """A task with metrics of whole rows of predictions."""

    #: Metrics of all predictions together that read images or rankings.
    row_metrics: "Sequence[RowMetric]"

    def mark_encoder(self, fingerprint: str) -> None:
        """Tells the metrics the model's vision encoder, so that scores by the same encoder are marked.

        Args:
            fingerprint: See :func:`flamingo.model.fingerprints.fingerprint`.
        """
        ...


@runtime_checkable
class RankingTask(Task, Protocol):
    """A task whose outputs are the best of each query's candidates."""

    def rank(self, query: Example) -> Rank:
        """Returns the candidates of a query."""
        ...


@runtime_checkable
class ScoredRankingTask(RankingTask, Protocol):
    """A task with metrics of the ranking of all candidates."""

    def score_ranking(self, query: Example, candidates: Sequence[str]) -> dict[str, float]:
        """Returns the metrics of a ranking, without metrics that do not apply to it.

        Args:
            query: The query.
            candidates: The candidates, the best first.
        """
        ...


@runtime_checkable
class RetrievalTask(Task, Protocol):
    """A task whose demonstrations can be retrieved by the query's image."""

    def similar(self, query: Example, number: int) -> Sequence[Example]:
        """Returns the candidates most similar to the query, the most similar first, without its duplicates.

        Args:
            query: The query.
            number: The number of candidates.
        """
        ...


@runtime_checkable
class NearestTask(Task, Protocol):
    """A task whose images can be compared."""

    def nearest(self, query: Example, examples: Sequence[Example]) -> Example:
        """Returns the example whose image is most similar to the query's, of equally similar ones the last.

        Args:
            query: The query.
            examples: Examples of the query's support, each perhaps with another caption.
        """
        ...


@runtime_checkable
class DescribedTask(Task, Protocol):
    """A task whose images can be replaced by words."""

    def description(self, query: Example, example: Example) -> str:
        """Returns the words in place of the image of an example of the query's support."""
        ...


@runtime_checkable
class CaptionTask(Task, Protocol):
    """A task whose demonstrations have captions, which are compared with each other."""

    def cider(self, query: Example) -> "CiderReward":
        """Returns CIDEr-D of captions, with the document frequencies of the captions in the query's support."""
        ...


@runtime_checkable
class OtherSupportsTask(Task, Protocol):
    """A task that can also show demonstrations of other data sets than its own support."""

    @property
    def other_supports(self) -> "Mapping[str, Task]":
        """Name of another data set -> the task with its demonstrations."""
        ...


@runtime_checkable
class RecordTask(RetrievalTask, Protocol):
    """A task whose queries and demonstrations are made from records, such as photographs with captions.

    The evaluation records checksums of its data, leaves out unusable records, and computes features of its images.
    """

    #: The records of the queries.
    query_records: "Sequence[Record]"
    #: The records that demonstrations are made from.
    support_records: "Sequence[Record]"
    #: Id -> the reason why a record was left out.
    skipped: Mapping[str, str]

    def fitting(self, processor: "FlamingoProcessor", template: CaptionTemplate, max_new_tokens: int) -> "RecordTask":
        """Returns the task without the records of the support that no prompt can show; they are skipped.

        Args:
            processor: Counts tokens.
            template: The template of captions.
            max_new_tokens: The tokens that are generated after a prompt.
        """
        ...

    def index(
        self, features: "FeatureStore", num_neighbours: int, training_records: "Sequence[Record]"
    ) -> "dict[str, list[NamedPair]]":
        """Finds the duplicates of the queries, which are never shown, and the candidates of :meth:`similar`.

        Args:
            features: The features of the images of all records, which were added before.
            num_neighbours: The number of similar candidates for each query; 0: only duplicates are searched.
            training_records: The records that the model was trained on.

        Returns:
            The near-duplicates of queries: in the support, among the queries, and in the training records.
        """
        ...


@runtime_checkable
class TextRetrievalTask(RecordTask, Protocol):
    """A task whose demonstrations can also be retrieved by texts: by questions, by captions, or with the image."""

    #: The similarities of :mod:`flamingo.evaluation.selection` besides that of images.
    text_similarities: tuple[str, ...]

    def index_texts(self, numbers: Mapping[str, int], features: "FeatureStore", vectors: "VectorStore | None") -> None:
        """Finds the candidates of :meth:`similar_by`, after :meth:`index`.

        Args:
            numbers: Similarity -> the number of candidates for each query.
            features: The features of the images of all records, which were added before.
            vectors: A dual encoder's vectors; missing ones are added. None: there is no dual encoder.
        """
        ...

    def similar_by(self, similarity: str, query: Example, number: int) -> Sequence[Example]:
        """Returns the candidates most similar to the query, the most similar first, without its duplicates.

        Args:
            similarity: One of ``text_similarities``.
            query: The query.
            number: The number of candidates.
        """
        ...


@runtime_checkable
class FilesTask(Task, Protocol):
    """A task without records that reads files, of which the evaluation records a checksum."""

    #: The files, always in the same order.
    files: Sequence[Path]


@runtime_checkable
class SubmissionTask(Task, Protocol):
    """A task whose outputs can be written as a file of results in the format of the data's authors."""

    def submission(self, outputs: Mapping[str, str]) -> list[dict[str, int | str]]:
        """Returns the rows of the file; none for data without such a format.

        Args:
            outputs: Id of a query -> the output.
        """
        ...


def other_supports(task: Task) -> Mapping[str, Task]:
    """Returns the task with the demonstrations of each other data set, by name; empty for a task without any."""
    return task.other_supports if isinstance(task, OtherSupportsTask) else {}


def with_support(task: Task, name: str | None) -> Task:
    """Returns the task with the demonstrations of another data set; None: of its own support.

    Raises:
        UserError: For a data set that the task does not have.
    """
    if name is None:
        return task
    supports = other_supports(task)
    if name not in supports:
        raise UserError(f"{task.name} has no other support {name!r}: it has {', '.join(supports) or 'none'}")
    return supports[name]
