"""What the tasks on questions about images have in common: the prompts of queries and demonstrations."""

from dataclasses import dataclass, field, replace

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.fitting_questions import fitting_questions
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import QuestionRecord, chosen_answer
from flamingo.data.records.record import LazySequence, Record
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.tasks.pool import Pool
from flamingo.evaluation.tasks.pooled_task import PooledTask


@dataclass
class QuestionTask(PooledTask):
    """Questions about images; demonstrations come from a pool of questions, and show one of their answers."""

    template: QuestionTemplate = field(default_factory=QuestionTemplate)
    #: One of :data:`flamingo.data.records.question_record.ANSWER_CHOICES`.
    shown_answer: str = "majority"

    def _query(self, record: Record) -> Example:
        assert isinstance(record, QuestionRecord)
        return Example(
            record.id,
            record.image,
            record.captions,
            self.template.prompt(record.question),
            answer_start=self.template.answer_start,
            later_images=record.later_images,
        )

    def _candidate(self, record: Record) -> Example:
        query = self._query(record)
        return query.with_caption(chosen_answer(query.references, self.shown_answer))

    def _fitted(
        self, pool: Pool, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int
    ) -> tuple[Pool, dict[str, str]]:
        assert isinstance(pool.records, LazySequence)
        longest = max(self._queries, key=lambda query: len(query.question(template)))
        prompt_length = processor.chunk_length(longest.question(template), len(longest.images))
        fitted = fitting_questions(pool.records, processor, self.template, prompt_length + max_new_tokens)
        skipped = {pool.name_of(id): reason for id, reason in fitted.skipped.items()}
        return replace(pool, records=fitted.records), skipped
