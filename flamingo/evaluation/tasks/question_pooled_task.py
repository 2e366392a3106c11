"""Tasks on questions whose demonstrations can also be retrieved by the similarity of their questions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from flamingo.data.records.question_record import QuestionRecord
from flamingo.data.records.record import Record
from flamingo.evaluation.selection import QUESTION, SUM
from flamingo.evaluation.tasks.question_task import QuestionTask
from flamingo.evaluation.tasks.text_pooled_task import TextPooledTask
from flamingo.evaluation.text_retrieval import question_similarities
from flamingo.inference.vector_store import VectorStore


@dataclass
class QuestionPooledTask(QuestionTask, TextPooledTask):
    """Questions about one image each, with a similarity of questions. Answers can be written as a submission."""

    text_similarities: ClassVar[tuple[str, ...]] = (QUESTION, SUM)
    max_new_tokens: int = 10

    def submission(self, outputs: Mapping[str, str]) -> list[dict[str, int | str]]:
        """Returns the rows of a file of results in the format of the data's authors.

        Args:
            outputs: Id of a query -> the output.
        """
        rows = []
        for id, output in outputs.items():
            name, value = self._records_by_id[id].result_id
            rows.append({name: value, "answer": output.strip()})
        return rows

    @cached_property
    def _records_by_id(self) -> dict[str, QuestionRecord]:
        return {record.id: record for record in self.query_records}  # type: ignore[misc]  # questions were read

    def _text_blocks(self, vectors: VectorStore | None) -> Iterator[Float[Tensor, "_ pool"]]:
        pool = _questions(self.pool.records)
        return question_similarities(_questions(self.query_records), pool, vectors, self.language)


def _questions(records: Sequence[Record]) -> list[str]:
    questions = []
    for record in records:
        assert isinstance(record, QuestionRecord)
        questions.append(record.question)
    return questions
