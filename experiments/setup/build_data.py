"""A config of data -> records, the data sets of a training, and the documents of its samples."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from experiments.schema import DataConfig, DataSetConfig, StreamedSetConfig
from experiments.setup.fitted_records import fitted_records
from experiments.setup.streamed_data import own_seed, streamed_loader
from flamingo import Document, FlamingoProcessor, synthetic
from flamingo.data.builders import BUILDERS, DocumentsConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.collate import Batch
from flamingo.data.document import Image
from flamingo.data.encode import EncodedDocuments, EncodedGroup, make_batch
from flamingo.data.loader import process_loader
from flamingo.data.order import Endless, Shuffled
from flamingo.data.records.record import LazySequence
from flamingo.data.shortening import encode_shortened
from flamingo.data.source_keys import DATA_KEYS, SAMPLE_KEYS, VALIDATION_KEYS, SourceKeys
from flamingo.data.sources import SourceSplit, list_split, read_split
from flamingo.data.splits import VALIDATION, MadeSplits, share_a_split, with_splits
from flamingo.data.text_checks import sample_captions, tokenizer_problems
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import nearest
from flamingo.synthetic.scenes import Split
from flamingo.training.losses import LOSSES
from flamingo.training.step import DataSet
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of
from flamingo.utils.problems import Problems
from flamingo.utils.token_ids import TokenIds

log = logging.getLogger(__name__)


@dataclass
class TrainingRecords:
    """The records of the training documents, of the samples that are logged, and of the held-out documents."""

    training: SourceSplit
    samples: SourceSplit
    #: None where no split is held out.
    validation: SourceSplit | None = None


def build_records(config: DataConfig, processor: FlamingoProcessor) -> TrainingRecords | None:
    """Returns the records of a config's data; None if no documents are made of records.

    Captions that are too long for a document are cut, or their images are left out
    (:func:`flamingo.data.fitting.fitting`).

    Args:
        config: The data.
        processor: Counts the tokens of captions.

    Raises:
        UserError: For unreadable sources and images, and where too few records are left.
    """
    of_records = config.of_records()
    if not of_records:
        return None
    new_tokens = max(config.drawn()[name].loss.tokens_to_generate() for name in of_records)

    def read(split: str | None, keys: SourceKeys) -> SourceSplit:
        assert config.root is not None
        source = read_split(config.root, config, split, True, keys, config.of_questions)
        try:
            fitted = fitted_records(config, source.records, processor, new_tokens)
        except UserError as error:
            name = "all splits" if split is None else f"split {split}"
            raise UserError(f"data.root={config.root}, {name}: {error}") from error
        return SourceSplit(fitted.records, source.skipped | fitted.skipped, source.listed, fitted.shortened)

    problems = Problems()
    splits: dict[str | None, SourceSplit] = {}
    validation_split: str | None = None
    with problems.collected():
        splits[config.split] = read(config.split, DATA_KEYS)
        for problem in tokenizer_problems(sample_captions(splits[config.split].records), processor.tokenizer):
            log.warning("data.root=%s: %s", config.root, problem)
    if config.sample_split not in (None, config.split):
        with problems.collected():
            splits[config.sample_split] = read(config.sample_split, SAMPLE_KEYS)
    with problems.collected():
        if config.split in splits:  # else the data are a problem already
            validation_split = held_out_split(config)
        if validation_split not in (None, config.sample_split):
            splits[validation_split] = read(validation_split, VALIDATION_KEYS)
    problems.report()
    training = splits[config.split]
    samples = training if config.sample_split is None else splits[config.sample_split]
    validation = None if validation_split is None else splits[validation_split]
    _check_number(config, training.records)
    return TrainingRecords(training, samples, validation)


def held_out_split(config: DataConfig) -> str | None:
    """Returns the split of the held-out documents: validation_split, else sample_split, else the one that is made.

    Returns:
        None, which is logged, where all images are trained on.
    """
    if config.validation_split is not None:
        return config.validation_split
    if config.split is not None:
        if not share_a_split(config.split, config.sample_split):
            return config.sample_split
        assert config.root is not None
        source = list_split(config.root, config, None, DATA_KEYS, config.of_questions)
        is_made = isinstance(with_splits(source, config.splits), MadeSplits)
        if is_made and config.splits.validation > 0 and not share_a_split(config.split, VALIDATION):
            return VALIDATION
    log.info("no held-out loss: data.split=%s leaves no split; name one by data.validation_split", config.split)
    return None


def check_records(config: DataConfig, problems: Problems) -> None:
    """Collects the problems of reading the records, without a processor, which would measure captions."""
    if not config.of_records():
        return
    assert config.root is not None
    named = [(config.split, DATA_KEYS), (config.sample_split, SAMPLE_KEYS)]
    if config.validation_split is not None:
        named.append((config.validation_split, VALIDATION_KEYS))
    for split, keys in named:
        with problems.collected():
            read_split(config.root, config, split, True, keys, config.of_questions)


def _check_number(config: DataConfig, records: LazySequence) -> None:
    """Logs documents that have fewer images than configured.

    Raises:
        UserError: For a loss that needs more records.
    """
    for name, documents in config.of_records().items():
        if documents.max_images > len(records):
            log.warning(
                "data.documents.%s.max_images is %d, but there are only %d images: documents have at most that many",
                name,
                documents.max_images,
                len(records),
            )
        loss = config.documents[name].loss
        if len(records) < loss.min_records:
            raise UserError(
                f"data.documents.{name}.loss.kind={loss.kind} needs the captions of {loss.min_records} images or more"
            )


def images_of(config: DataConfig, records: TrainingRecords) -> list[Image]:
    """Returns all images of the training documents, of the samples and of the held-out documents."""
    images = [record.image for record in records.training.records]
    num_crops = max(documents.num_views for documents in config.of_records().values())
    crops = [image.crop(number) for number in range(num_crops) for image in images]
    images = crops + [record.image for record in records.samples.records]
    if records.validation is not None:
        validation_images = [record.image for record in records.validation.records]
        images += [image.crop(number) for number in range(num_crops) for image in validation_images]
    return images


def build_data_sets(
    config: DataConfig,
    records: TrainingRecords | None,
    processor: FlamingoProcessor,
    features: FeatureStore | None,
    seed: int,
    num_workers: int,
    known_ids: TokenIds | None = None,
) -> list[DataSet]:
    """Returns a data set for each of the config's ``documents``.

    Args:
        config: The data.
        records: The records of :func:`build_records`.
        processor: Encodes the documents.
        features: Features of the records' images, which replace pixels.
        seed: The seed of all random draws.
        num_workers: The number of processes that encode documents.
        known_ids: The token ids with embeddings, for :func:`flamingo.data.encode.make_batch`.
    """

    @cache
    def make_reward(language: str) -> CiderReward:
        assert records is not None
        return CiderReward([record.captions for record in records.training.records], language)

    data_sets = []
    if config.draft:
        processor = processor.drafted()
    endless = training_documents(config, records, processor.template, features, seed)
    for name, entry in config.documents.items():
        loss = class_of(LOSSES, entry.loss.kind)(entry.loss, processor, make_reward)
        if isinstance(entry, StreamedSetConfig):
            shared = streamed_loader(name, entry, processor, own_seed(seed, name), num_workers, known_ids)
            data_sets.append(DataSet(name, shared, entry.documents.weight, processor.normalized, loss, shared=True))
            continue
        encoded = encoded_documents(entry, endless[name], processor, features, own_seed(seed, name))
        collate = collation(entry, processor, known_ids)
        loader = process_loader(encoded, collate, entry.documents.batch_size, num_workers)
        data_sets.append(DataSet(name, loader, entry.documents.weight, processor.normalized, loss))
    return data_sets


def encoded_documents(
    entry: DataSetConfig,
    endless: Endless[Document],
    processor: FlamingoProcessor,
    features: FeatureStore | None,
    seed: str,
) -> EncodedDocuments:
    """Returns the encoded documents of an entry of ``data.documents``.

    Args:
        entry: The entry.
        endless: Its documents.
        processor: Encodes them.
        features: Features of the records' images, instead of pixels.
        seed: Decides which texts belong to the image after them.
    """
    documents = entry.documents
    if not entry.of_records:
        # Synthetic images are drawn when they are needed: their features are not kept.
        return EncodedDocuments(endless, processor, p_next=documents.p_next, seed=seed)
    shorten_to = processor.tokenizer.model_max_length - entry.loss.tokens_to_generate()
    return EncodedDocuments(endless, processor, features, documents.group_size, documents.p_next, seed, shorten_to)


def collation(
    entry: DataSetConfig, processor: FlamingoProcessor, known_ids: TokenIds | None
) -> Callable[[Sequence[EncodedGroup]], Batch]:
    """Returns the function that makes a batch of an entry's encoded documents."""
    return partial(
        make_batch,
        pad_token_id=processor.tokenizer.pad_token_id,
        pack_to=entry.documents.pack_to,
        num_rows=entry.documents.rows,
        known_ids=known_ids,
    )


def training_documents(
    config: DataConfig,
    records: TrainingRecords | None,
    template: CaptionTemplate,
    features: FeatureStore | None,
    seed: int,
) -> dict[str, Endless[Document]]:
    """Returns the documents of each data set by its name, except streamed ones.

    Args:
        config: The data.
        records: The records of :func:`build_records`.
        template: The template of the captions.
        features: Features of the records' images, which find neighbours.
        seed: The seed of all random draws.
    """
    endless: dict[str, Endless[Document]] = {}
    for name, entry in config.drawn().items():
        if entry.of_records:
            assert records is not None
            records_of_split = records.training.records
            endless[name] = documents_of(entry.documents, records_of_split, features, own_seed(seed, name), template)
        else:
            drawn = synthetic_documents(entry.documents, "training", seed, template)
            endless[name] = Shuffled(drawn, own_seed(seed, name))
    return endless


def build_samples(
    config: DataConfig,
    records: TrainingRecords | None,
    number: int,
    processor: FlamingoProcessor,
    max_length: int,
) -> list[Document]:
    """Returns ``number`` documents of each data set, with the largest number of images that it allows.

    There are none of streamed data sets, whose documents may end with any text.

    Args:
        config: The data.
        records: The records of :func:`build_records`.
        number: The number of documents of each data set.
        processor: Counts the tokens of their prompts.
        max_length: The largest number of tokens of a prompt. A longer document of records loses its first images.

    Raises:
        UserError: For a document of the synthetic benchmark that is too long.
    """

    def checked(documents: Sequence[Document]) -> Document:
        processor.encode(sample_prompt(documents[0]), prompt=True, pixels=False, max_length=max_length)
        return documents[0]

    samples: list[Document] = []
    for entry in config.drawn().values():
        largest = entry.documents.of_size(entry.documents.max_images)
        if entry.of_records:
            assert records is not None
            documents = documents_of(largest, records.samples.records, None, 0, processor.template)
        else:
            documents = synthetic_documents(largest, "evaluation", 0, processor.template)
        for index in range(number):
            sample = documents[index]
            if entry.of_records:
                sample, _ = encode_shortened([sample], checked)
            samples.append(checked([sample]))
    return samples


def sample_prompt(sample: Document) -> Document:
    """Returns a document without its last answer."""
    return Document(sample.parts[:-1], sample.id)


def documents_of(
    config: DocumentsConfig,
    records: LazySequence,
    features: FeatureStore | None,
    seed: int | str,
    template: CaptionTemplate,
) -> Endless[Document]:
    """Returns the documents that are made of the records of a split."""
    config = _of_different_images(config, len(records))
    neighbours = None
    if config.num_neighbours > 0:
        assert features is not None, "check_documents refuses neighbours without features"
        pooled = features.pooled([record.image for record in records])
        neighbours = nearest(pooled, pooled, config.num_neighbours).cpu().numpy()
    return class_of(BUILDERS, config.kind)(config, records, seed, neighbours, template)


def _of_different_images(config: DocumentsConfig, num_records: int) -> DocumentsConfig:
    """Returns a config whose documents have at most one image for each record, since their images differ."""
    max_images = min(config.max_images, num_records)
    return replace(config, min_images=min(config.min_images, max_images), max_images=max_images)


def synthetic_documents(
    config: DocumentsConfig, split: Split, seed: int, template: CaptionTemplate
) -> Sequence[Document]:
    """Returns the documents of the synthetic benchmark."""
    return class_of(synthetic.BUILDERS, config.kind).from_config(config, split, seed, template)
