"""VisDial (Das et al., arXiv 1611.08669): the candidate answers of a question in a dialogue, ranked by likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.dialogue_record import DialogueRecord
from flamingo.data.records.record import LazySequence, RecordList, Subset
from flamingo.evaluation.metrics.ranked_answers import ndcg, rank_metrics
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import VisdialConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import read_query_and_support
from flamingo.evaluation.tasks.question_task import QuestionTask
from flamingo.utils.errors import UserError


@dataclass
class Visdial(QuestionTask):
    """Rounds of dialogues. A prompt has the caption and all earlier rounds; a demonstration is a whole dialogue."""

    #: The value that ranks the candidates: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each candidate.
    end: bool = True

    @classmethod
    def from_config(cls, config: VisdialConfig, open_images: bool = True) -> "Visdial":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read, is not VisDial's, or has no round to ask or to show.
        """
        query, support = read_query_and_support(config, open_images, questions=True)
        asked = _asked(query.records, config)
        shown = drawn_records(_whole_dialogues(support.records, config.name), config.support_size)
        turn = QuestionTemplate(config.question_template)
        dialogues = {record.image: record.id for record in shown}
        related = {record.id: (dialogues[record.image],) for record in asked if record.image in dialogues}
        return cls(
            config.name,
            _with_history(asked, config.opening, turn),
            Pool(_with_history(shown, config.opening, turn), related=related),
            skipped=query.skipped | support.skipped,
            language=config.language,
            template=QuestionTemplate("{question}" + turn.text.partition("{question}")[2]),
            rank_by=config.rank_by,
            end=config.end,
        )

    def rank(self, query: Example) -> Rank:
        """Returns the candidates of the round."""
        return Rank(self._records_by_id[query.id].options, self.rank_by, self.end)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns no metrics: the ranking of all candidates is scored."""
        return {}

    def score_ranking(self, query: Example, candidates: Sequence[str]) -> dict[str, float]:
        """Returns ``ndcg`` of an annotated round, and the metrics of the rank of the answer that was given."""
        record = self._records_by_id[query.id]
        scores: dict[str, float] = {}
        if record.relevance is not None:
            value = ndcg(_ranked_relevances(record.options, record.relevance, candidates))
            if value is not None:
                scores["ndcg"] = value
        if query.references:
            scores |= rank_metrics(1 + list(candidates).index(query.references[0]))
        return scores

    @cached_property
    def _records_by_id(self) -> dict[str, DialogueRecord]:
        return {record.id: record for record in self.query_records}  # type: ignore[misc]  # dialogues were read


def _asked(records: LazySequence, config: VisdialConfig) -> LazySequence:
    """Returns the rounds to ask.

    Raises:
        UserError: If there is none.
    """
    positions = []
    for position, record in enumerate(records):
        dialogue = _dialogue(record, config.name)
        is_annotated = dialogue.relevance is not None
        if dialogue.option_positions and (is_annotated or config.rounds == "all"):
            positions.append(position)
    if not positions:
        raise UserError(
            f"task.query={config.query} has no round with dense annotations: add *_dense_annotations.json next to it, "
            "or set task.rounds=all"
        )
    return Subset(records, positions)


def _whole_dialogues(records: LazySequence, name: str) -> LazySequence:
    """Returns the last round of each dialogue, if it has an answer."""
    positions = []
    for position, record in enumerate(records):
        if _dialogue(record, name).is_last and record.captions:
            positions.append(position)
    return Subset(records, positions)


def _dialogue(record: object, name: str) -> DialogueRecord:
    """Returns the record.

    Raises:
        UserError: If it is no round of a dialogue.
    """
    if not isinstance(record, DialogueRecord):
        raise UserError(f"{name} needs VisDial's dialogues: set task.format=visdial")
    return record


def _with_history(records: LazySequence, opening: str, turn: QuestionTemplate) -> RecordList:
    """Returns the rounds with all that stands before their answers as their questions."""
    before_question = turn.text.partition("{question}")[0]
    filled = []
    for record in records:
        assert isinstance(record, DialogueRecord)
        texts = [opening.replace("{caption}", record.caption)]
        texts += [turn.filled(question, answer) for question, answer in record.history]
        texts.append(before_question + record.question)
        filled.append(replace(record, question=" ".join(texts)))
    return RecordList(filled, records.skipped)


def _ranked_relevances(options: Sequence[str], relevances: Sequence[float], candidates: Sequence[str]) -> list[float]:
    """Returns the relevance of each candidate of a ranking. Equal candidates keep their order."""
    relevances_of: dict[str, list[float]] = {}
    for option, relevance in zip(options, relevances, strict=True):
        relevances_of.setdefault(option, []).append(relevance)
    return [relevances_of[candidate].pop(0) for candidate in candidates]
