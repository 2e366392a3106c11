"""A training's parts -> what it measures besides its loss: held-out documents, and the arithmetic of its steps."""

import logging
import math

import torch

from experiments.schema import DataConfig, DataSetConfig
from experiments.setup.build import TrainingParts
from experiments.setup.build_data import (
    TrainingRecords,
    collation,
    documents_of,
    encoded_documents,
    synthetic_documents,
)
from experiments.setup.streamed_data import own_seed
from experiments.train import TrainConfig
from flamingo import Document, FlamingoProcessor
from flamingo.data.builders import DocumentsConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.encode import FixedBatches
from flamingo.data.order import Endless, Shuffled
from flamingo.data.records.record import LazySequence
from flamingo.inference.features import FeatureStore
from flamingo.inference.image_size import checked_image_size
from flamingo.inference.retrieval import NeighboursError
from flamingo.model.vision import num_channels
from flamingo.training.flops import training_flops
from flamingo.training.monitoring import Monitoring
from flamingo.training.validation import HeldOut
from flamingo.utils.token_ids import TokenIds

log = logging.getLogger(__name__)

#: Documents of each data set.
_NUM_DOCUMENTS = 64


def build_monitoring(parts: TrainingParts, config: TrainConfig, features: FeatureStore | None) -> Monitoring:
    """Returns what a training measures.

    Args:
        parts: The parts of the training.
        config: The training.
        features: Features of the records' images, instead of pixels.
    """
    model, processor = parts.model, parts.processor
    seed, known_ids = config.training.seed, model.new_tokens.known_ids
    held_out = build_held_out(config.data, parts.records, processor, features, seed, known_ids)
    height, width = checked_image_size(model, processor, config.model.image_size)
    channels = num_channels(model.vision_model.config)
    blank = torch.zeros(1, channels, height, width, device=model.device)
    return Monitoring(held_out, training_flops(model, blank))


def build_held_out(
    config: DataConfig,
    records: TrainingRecords | None,
    processor: FlamingoProcessor,
    features: FeatureStore | None,
    seed: int,
    known_ids: TokenIds | None = None,
) -> list[HeldOut]:
    """Returns 64 documents for each of the config's ``documents``, which no step trains on.

    Documents of records show the images of the validation split. Those of the synthetic benchmark belong to its
    evaluation split. Streamed data sets have none. Document ``index`` is a function of the seed and ``index``.

    Args:
        config: The data.
        records: Of :func:`experiments.setup.build_data.build_records`. Without a validation split, data sets that are
            made of records are left out.
        processor: Encodes the documents.
        features: Features of the records' images, instead of pixels.
        seed: That of the training.
        known_ids: The token ids that the model has embeddings for: see :func:`flamingo.data.encode.make_batch`.
    """
    held_out = []
    for name, entry in config.drawn().items():
        documents_seed = f"held out {own_seed(seed, name)}"
        documents: Endless[Document]
        if not entry.of_records:
            drawn = synthetic_documents(entry.documents, "evaluation", seed, processor.template)
            documents = Shuffled(drawn, documents_seed)
        elif records is not None and records.validation is not None:
            of_split = records.validation.records
            documents = held_out_documents(entry.documents, of_split, features, documents_seed, processor.template)
        else:
            continue
        encoded = encoded_documents(entry, documents, processor, features, documents_seed)
        collate = collation(entry, processor, known_ids)
        batches = FixedBatches(encoded, collate, entry.documents.batch_size, num_held_out_groups(entry))
        held_out.append(HeldOut(name, batches, processor.normalized))
    return held_out


def held_out_documents(
    config: DocumentsConfig,
    records: LazySequence,
    features: FeatureStore | None,
    seed: str,
    template: CaptionTemplate,
) -> Endless[Document]:
    """Returns the documents of a validation split; of random images where it has too few that are no duplicates."""
    try:
        return documents_of(config, records, features, seed, template)
    except NeighboursError as error:
        log.info("held-out documents show random images instead of similar ones: %s", error)
        return documents_of(config.without_neighbours(), records, features, seed, template)


def num_held_out_groups(entry: DataSetConfig) -> int:
    """Returns the groups of held-out documents of a data set: documents of a group show the same images."""
    return math.ceil(_NUM_DOCUMENTS / entry.documents.group_size)
