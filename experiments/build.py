"""A config -> the model, its features, the task, the data sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from transformers import AutoConfig

from experiments.schema import ALL_TASKS, DataConfig, ModelConfig
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor, synthetic
from flamingo.data.builders import BUILDERS, DocumentsConfig
from flamingo.data.document import Image
from flamingo.data.encode import EncodedDocuments, make_batch
from flamingo.data.fitting import fitting
from flamingo.data.loader import process_loader
from flamingo.data.order import Endless, Shuffled
from flamingo.data.record import LazySequence
from flamingo.data.sources import SourceSplit, read_split
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.tasks import TaskConfig
from flamingo.inference import FeaturesConfig
from flamingo.inference.features import FeatureStore
from flamingo.inference.image_size import check_image_size
from flamingo.inference.retrieval import nearest
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.model.checkpoints import fingerprint
from flamingo.model.language import make_text_model
from flamingo.synthetic import backbones
from flamingo.synthetic.scenes import Split
from flamingo.training.losses import LOSSES
from flamingo.training.step import DataSet
from flamingo.utils.checks import within
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.kinds import class_of
from flamingo.utils.memory import out_of_memory
from flamingo.utils.token_ids import TokenIds


def backbone_names(config: ModelConfig) -> dict[str, str]:
    """Returns the folder or the hub name of the backbones ``vision`` and ``language``."""
    names = {"vision": config.vision, "language": config.language}
    embedded = {"vision": backbones.VISION, "language": backbones.LANGUAGE}
    return {key: str(embedded[key]) if name == "embedded" else name for key, name in names.items()}


def build_model(config: ModelConfig, dtype: str = "auto") -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of a config, untrained between its backbones, and its processor.

    The model is on the device of this process. Its random weights are drawn on the CPU.

    Args:
        config: The model.
        dtype: Of the backbones; auto: as they were saved.

    Raises:
        UserError: For backbones that are not there, and for parts that cannot train.
    """
    names = backbone_names(config)
    for key, name in names.items():
        from_pretrained(AutoConfig, name, f"model.{key}")
    processor = FlamingoProcessor.from_vision_text_pretrained(
        names["vision"], names["language"], config.image_size, aspect=config.aspect
    )
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        names["vision"],
        names["language"],
        dtype=dtype,
        new_token_ids=processor.new_token_ids,
        vision_features=config.vision_features,
        connector=config.connector,
        fusion=config.fusion,
        check=False,
    )
    model.place(processes().device)
    model.begin_checks(True)
    check_image_size(model, processor, config.image_size)
    if config.from_scratch:
        fresh = make_text_model(model.language_model.config)
        model.language_model.load_state_dict(fresh.state_dict())
        model.new_tokens.start_from_mean(fresh.get_input_embeddings(), fresh.get_output_embeddings())
    if config.init_from is not None:
        _begin_with(model, config.init_from, dtype)
    model.train_parts(config.trainable)
    return model, processor


def load_model(checkpoint: Path, dtype: str) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of a checkpoint, on the device of this process in evaluation mode, and its processor.

    Args:
        checkpoint: The folder.
        dtype: Of the backbones; auto: that in which the model was trained.
    """
    model = FlamingoForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype, check=False)
    model.place(processes().device)
    model.begin_checks(True)
    return model.eval(), FlamingoProcessor.from_pretrained(checkpoint)


def _begin_with(model: FlamingoForConditionalGeneration, folder: str, dtype: str) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"model.init_from: there is no checkpoint in {folder}")
    start = FlamingoForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    for part in BACKBONES:
        if fingerprint(getattr(start, part)) != fingerprint(getattr(model, part)):
            raise UserError(f"model.init_from: {folder} was trained with another {part.replace('_', ' ')}")
    try:
        for part in TRAINED_PARTS:
            getattr(model, part).load_state_dict(getattr(start, part).state_dict())
    except RuntimeError as error:  # other shapes, which torch names
        raise UserError(f"model.init_from: {folder} has another {part.replace('_', ' ')}: {error}") from error


def build_features(
    config: FeaturesConfig, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
) -> FeatureStore | None:
    """Returns the features of a config's folder; None where it names none.

    Raises:
        UserError: For a folder of other features.
    """
    if config.folder is None:
        return None
    with processes().main_process_first():
        return FeatureStore(Path(config.folder), model, processor, config.batch_size)


def add_features(features: FeatureStore, images: Iterable[Image]) -> None:
    """Compute missing features in the main process; the other processes find them in the folder.

    Raises:
        UserError: For a broken picture, and where the device runs out of memory.
    """
    with processes().main_process_first(), out_of_memory("features.batch_size"):
        features.add(images)


def build_task(config: TaskConfig, open_images: bool) -> Task:
    """Returns the task of a config.

    Args:
        config: The config of any kind of task.
        open_images: Whether image files are opened, so that broken ones are found now.

    Raises:
        UserError: For data that cannot be read.
    """
    return class_of(ALL_TASKS, config.kind).from_config(config, open_images)


# ------------------------------------------------------------------------------------- data


@dataclass
class TrainingRecords:
    """The records that documents for training are made of, and those of the samples that are logged."""

    training: SourceSplit
    samples: SourceSplit


def build_records(config: DataConfig, processor: FlamingoProcessor, open_images: bool) -> TrainingRecords | None:
    """Returns the records of a config's data; None if no documents are made of records.

    Records whose captions the documents cannot hold are left out: see :func:`flamingo.data.fitting.fitting`.

    Args:
        config: The data.
        processor: Counts the tokens of captions.
        open_images: See :func:`flamingo.data.sources.read_split`.

    Raises:
        UserError: For a source that cannot be read, and where too few records are left.
    """
    of_records = config.of_records()
    if not of_records:
        return None
    longest = max(of_records, key=lambda name: of_records[name].max_images)
    max_images = of_records[longest].max_images
    new_tokens = max(config.documents[name].loss.tokens_to_generate() for name in of_records)
    assert config.root is not None
    root = config.root

    def read(split: str | None) -> SourceSplit:
        source = read_split(root, config.images, config.format, split, open_images)
        try:
            records, skipped = fitting(source.records, processor, max_images, new_tokens)
        except UserError as error:
            raise UserError(f"data.documents.{longest}.max_images: {error}") from error
        return SourceSplit(records, source.skipped | skipped, source.listed)

    training = read(config.split)
    samples = training if config.sample_split is None else read(config.sample_split)
    _check_number(config, training.records)
    return TrainingRecords(training, samples)


def _check_number(config: DataConfig, records: LazySequence) -> None:
    """Raise UserError for documents, or a loss, that these records are too few for."""
    for name, documents in config.of_records().items():
        with within(f"data.documents.{name}"):
            _documents(documents.of_size(documents.max_images), records, None, 0)
        loss = config.documents[name].loss
        if len(records) < loss.min_records:
            raise UserError(
                f"data.documents.{name}.loss.kind={loss.kind} needs the captions of {loss.min_records} images or more"
            )


def images_of(config: DataConfig, records: TrainingRecords) -> list[Image]:
    """Returns all images that documents for training and samples show."""
    images = [record.image for record in records.training.records]
    num_crops = max(documents.num_views for documents in config.of_records().values())
    crops = [image.crop(number) for number in range(num_crops) for image in images]
    return crops + [record.image for record in records.samples.records]


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
        records: Of :func:`build_records`.
        processor: Encodes the documents.
        features: Features of the records' images, instead of pixels.
        seed: Of everything that is drawn.
        num_workers: Processes that encode documents.
        known_ids: The token ids that the model has embeddings for: see :func:`flamingo.data.encode.make_batch`.
    """

    @cache
    def make_reward() -> CiderReward:
        assert records is not None
        return CiderReward([record.captions for record in records.training.records])

    data_sets = []
    for name, entry in config.documents.items():
        documents = entry.documents
        # Data sets of one run differ in their order, and in what they draw.
        own_seed = f"{seed} {name}"
        if entry.of_records:
            assert records is not None
            endless = _documents(documents, records.training.records, features, own_seed)
            encoded = EncodedDocuments(endless, processor, features, documents.group_size, documents.p_next, own_seed)
        else:
            # Synthetic images are drawn when they are needed: their features are not kept.
            endless = Shuffled(_synthetic_documents(documents, "training", seed), own_seed)
            encoded = EncodedDocuments(endless, processor, p_next=documents.p_next, seed=own_seed)
        collate = partial(
            make_batch,
            pad_token_id=processor.tokenizer.pad_token_id,
            pack_to=documents.pack_to,
            known_ids=known_ids,
        )
        loader = process_loader(encoded, collate, documents.batch_size, num_workers)
        loss = class_of(LOSSES, entry.loss.kind)(entry.loss, processor, make_reward)
        data_sets.append(DataSet(name, loader, documents.weight, processor.normalized, loss))
    return data_sets


def build_samples(config: DataConfig, records: TrainingRecords | None, number: int) -> list[Document]:
    """Returns ``number`` documents of each data set, with as many images as it allows."""
    samples: list[Document] = []
    for entry in config.documents.values():
        max_images = entry.documents.max_images
        if entry.of_records:
            assert records is not None
            max_images = min(max_images, len(records.samples.records))
            documents = _documents(entry.documents.of_size(max_images), records.samples.records, None, 0)
        else:
            documents = _synthetic_documents(entry.documents.of_size(max_images), "evaluation", 0)
        samples += [documents[index] for index in range(number)]
    return samples


def _documents(
    config: DocumentsConfig, records: LazySequence, features: FeatureStore | None, seed: int | str
) -> Endless[Document]:
    neighbours = None
    if config.num_neighbours > 0:
        assert features is not None, "check_documents refuses neighbours without features"
        pooled = features.pooled([record.image for record in records])
        neighbours = nearest(pooled, pooled, config.num_neighbours).cpu().numpy()
    return class_of(BUILDERS, config.kind)(config, records, seed, neighbours)


def _synthetic_documents(config: DocumentsConfig, split: Split, seed: int) -> Sequence[Document]:
    return class_of(synthetic.BUILDERS, config.kind).from_config(config, split, seed)


# --------------------------------------------------------------------------------- training


@dataclass
class TrainingParts:
    """The parts of a training, checked. What remains is features and the loop."""

    model: FlamingoForConditionalGeneration
    processor: FlamingoProcessor
    #: Where documents are made of records.
    records: TrainingRecords | None
    #: Documents whose last answers are logged while training.
    samples: list[Document]
    features: FeatureStore | None


def build_training(
    model_config: ModelConfig,
    dtype: str,
    data: DataConfig,
    features_config: FeaturesConfig,
    seed: int,
    num_samples: int,
    sample_tokens: int,
) -> TrainingParts:
    """Returns the parts of a training.

    Args:
        model_config: The model.
        dtype: Of its backbones.
        data: The data.
        features_config: The folder of features.
        seed: Of the initial weights.
        num_samples: Samples of each data set.
        sample_tokens: Tokens that are generated after a sample's prompt.

    Raises:
        UserError: For whatever the training would fail at later.
    """
    torch.manual_seed(seed)
    model, processor = build_model(model_config, dtype)
    records = build_records(data, processor, open_images=features_config.folder is None)
    samples = build_samples(data, records, num_samples)
    max_length = processor.tokenizer.model_max_length - sample_tokens
    for sample in samples:
        processor.encode(sample_prompt(sample), prompt=True, pixels=False, max_length=max_length)
    features = None if records is None else build_features(features_config, model, processor)
    return TrainingParts(model, processor, records, samples, features)


def sample_prompt(sample: Document) -> Document:
    """Returns a document without its last answer."""
    return Document(sample.parts[:-1], sample.id)
