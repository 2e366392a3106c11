"""The data of image-text retrieval: images with the captions that are searched, and training images."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from experiments.retrieve import CAPTIONS, RERANKED, RetrieveConfig
from flamingo.data.records.record import Record
from flamingo.data.source_config import SourceConfig
from flamingo.data.source_keys import SourceKeys
from flamingo.data.sources import list_split, read_split
from flamingo.evaluation.recall import Gallery
from flamingo.synthetic.captioned_scenes import CaptionedScenes
from flamingo.utils.errors import UserError

#: The numbers of synthetic scenes without ``limit``, and of those for training.
_SCENES, _TRAINING_SCENES = 1000, 2000


@dataclass(frozen=True)
class RetrievalData:
    """The images with the captions that are searched, and the training images."""

    records: Sequence[Record]
    #: Empty if no method needs them.
    training: Sequence[Record]
    #: The training images that each prompt shows.
    demonstrations: Sequence[Record]

    @cached_property
    def gallery(self) -> Gallery:
        """The captions of each image."""
        return Gallery([record.captions for record in self.records])


def read_data(config: RetrieveConfig) -> RetrievalData:
    """Returns the data of a config.

    Raises:
        UserError: For a source that cannot be read, and one with too few demonstrations.
    """
    training: Sequence[Record] = []
    needs_training = CAPTIONS in config.methods or RERANKED in config.methods or config.shots > 0
    records: Sequence[Record]
    if config.pairs is None:
        records = list(CaptionedScenes("evaluation", config.limit or _SCENES))
        if needs_training:
            training = list(CaptionedScenes("training", _TRAINING_SCENES))
    else:
        keys = SourceKeys("pairs", "split")
        records = read_split(config.pairs, None, config.split, keys=keys).records[: config.limit]
        if needs_training:
            training = _listed_training(config)
    searched = []
    for record in records:
        searched.append(replace(record, captions=record.captions[: config.captions_per_image]))
    return RetrievalData(searched, training, _drawn(training, config))


def _drawn(training: Sequence[Record], config: RetrieveConfig) -> list[Record]:
    if config.shots > len(training):
        raise UserError(f"shots={config.shots}, but there are {len(training)} training images")
    rng = random.Random(f"retrieval/{config.seed}")
    return [training[position] for position in rng.sample(range(len(training)), config.shots)]


def _listed_training(config: RetrieveConfig) -> Sequence[Record]:
    keys = SourceKeys("pairs" if config.training is None else "training", "training_split")
    source = config.training or config.pairs
    assert source is not None
    return list_split(source, SourceConfig(), config.training_split, keys)
