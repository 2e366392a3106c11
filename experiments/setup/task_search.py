"""The tasks of a contamination check -> searches of their pictures and captions."""

import logging
from dataclasses import dataclass

from tqdm import tqdm

from experiments.contamination import ContaminationConfig, TaskSourceConfig
from flamingo.data.document import Readable
from flamingo.data.source_config import SourceConfig
from flamingo.data.source_keys import SourceKeys
from flamingo.data.sources import list_split
from flamingo.evaluation.contamination.caption_overlap import CaptionSearch
from flamingo.evaluation.contamination.findings import TaskSearch
from flamingo.evaluation.contamination.fingerprint import fingerprint_of
from flamingo.evaluation.contamination.image_overlap import ImageSearch
from flamingo.evaluation.contamination.training_sample import captions_of
from flamingo.evaluation.metrics.tokenization import Tokenize, tokenizer_of
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchedTask:
    """A task whose queries are searched."""

    name: str
    language: str
    tokenize: Tokenize
    search: TaskSearch


def searched_task(name: str, source: TaskSourceConfig, config: ContaminationConfig) -> SearchedTask:
    """Returns the search of a task. Its pictures are opened once.

    Args:
        name: The name of the task.
        source: Its queries.
        config: The limits of near duplicates.

    Raises:
        UserError: With the key, for queries that cannot be read.
    """
    section = f"tasks.{name}"
    keys = SourceKeys(f"{section}.query", f"{section}.query_split", section)
    reading = SourceConfig(images=source.images, format=source.format, broken_images="skip")
    records = list_split(source.query, reading, source.query_split, keys, questions=None, needs_captions=False)
    tokenize = tokenizer_of(source.language)
    search = TaskSearch(ImageSearch(config.max_distance), CaptionSearch(config.min_words, config.min_overlap))
    known: set[str] = set()
    for record in tqdm(records, name, unit=" queries"):
        for caption in captions_of(record):
            search.add_caption(record.id, caption, tokenize(caption).split())
        for frame in record.frames:
            if str(frame) in known:  # several questions about an image
                continue
            known.add(str(frame))
            assert isinstance(frame, str | Readable), "the pictures of sources lie in files"
            try:
                fingerprint = fingerprint_of(frame)
            except UserError as error:
                log.warning("%s: a picture is left out: %s", section, error)
                continue
            search.add_picture(record.id, frame, fingerprint)
    if not search.pictures:
        raise UserError(f"{keys.root}={source.query}: none of the pictures can be opened")
    return SearchedTask(name, source.language, tokenize, search)
