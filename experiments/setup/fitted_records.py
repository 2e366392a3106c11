"""The captioned images or questions of a config's data that fit into its documents."""

from experiments.schema import DataConfig
from flamingo.data.builders import QuestionsConfig
from flamingo.data.fitting import FittedRecords, fitting
from flamingo.data.fitting_questions import fitting_questions
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.record import LazySequence


def fitted_records(
    config: DataConfig, records: LazySequence, processor: FlamingoProcessor, new_tokens: int
) -> FittedRecords:
    """Returns the records that fit into documents of one image. Questions have the longest of their templates.

    Args:
        config: The data.
        records: The captioned images or questions of a split.
        processor: Counts tokens.
        new_tokens: Tokens that are generated after a document.

    Raises:
        UserError: If no record is left.
    """
    templates = []
    for documents in config.of_records().values():
        if isinstance(documents, QuestionsConfig):
            templates.append(documents.question_template)
    if not templates:
        return fitting(records, processor, new_tokens, config.too_long)
    longest = QuestionTemplate(max(templates, key=len))
    return fitting_questions(records, processor, longest, new_tokens)
