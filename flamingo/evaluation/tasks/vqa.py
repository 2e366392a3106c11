"""Visual question answering: queries and demonstrations from questions about images, with VQA accuracy."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamingo.data.question_template import QuestionTemplate
from flamingo.evaluation.metrics.stemming import load_stemmer
from flamingo.evaluation.metrics.vqa import MIN_ANSWERS, processed, vqa_accuracy
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.tasks import VqaConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import read_query_and_support
from flamingo.evaluation.tasks.question_pooled_task import QuestionPooledTask

log = logging.getLogger(__name__)


@dataclass
class Vqa(QuestionPooledTask):
    """Open-ended questions about images. The references of a query are the answers of all people."""

    #: Names of :data:`flamingo.evaluation.tasks.SCORE_TYPES`.
    score_types: tuple[str, ...] = ("answer_type",)
    #: Stems outputs before they are compared; None: they are not stemmed.
    stemmer: Callable[[str], str] | None = None
    #: The name of the accuracy: ``vqa_accuracy_unstemmed`` where the data's answers are stemmed, and outputs are not.
    metric: str = "vqa_accuracy"

    @classmethod
    def from_config(cls, config: VqaConfig, open_images: bool = True) -> "Vqa":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images that a file of questions names are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read, or the requirements of stemming are missing.
        """
        stemmer = None
        if config.nltk_data is not None:
            stemmer = load_stemmer(Path(config.nltk_data), None if config.stems is None else Path(config.stems))
        metric = "vqa_accuracy"
        if config.stem and stemmer is None:
            metric = "vqa_accuracy_unstemmed"
            log.warning("%s: outputs are not stemmed: set task.nltk_data to the folder of nltk's data", config.name)
        query, support = read_query_and_support(config, open_images, questions=True)
        return cls(
            config.name,
            query.records,
            Pool(drawn_records(support.records, config.support_size)),
            skipped=query.skipped | support.skipped,
            language=config.language,
            template=QuestionTemplate(config.question_template),
            shown_answer=config.shown_answer,
            score_types=tuple(config.score_types),
            stemmer=stemmer,
            metric=metric,
        )

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns the VQA accuracy, also under the names of the question's types; nothing without answers.

        A question with too few answers for VQA accuracy has an exact match instead: whether the output equals one of
        them, both processed.
        """
        answers = query.references
        if not answers:
            return {}
        if len(answers) < MIN_ANSWERS:
            forms = {processed(answer) for answer in answers}
            return {"exact_match": float(processed(output) in forms)}
        accuracy = vqa_accuracy(output if self.stemmer is None else self.stemmer(output), answers)
        scores = {self.metric: accuracy}
        record = self._records_by_id[query.id]
        for name in self.score_types:
            type_of_question = getattr(record, name)
            if type_of_question is not None:
                scores[f"{self.metric}/{name}/{type_of_question}"] = accuracy
        return scores
