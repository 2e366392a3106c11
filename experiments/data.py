"""From a config's ``data`` to the documents that a run is trained on: synthetic ones, or captioned images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from experiments.schema import DataConfig
from flamingo import Document, FlamingoProcessor, Image
from flamingo.data.builders import InterleavedConfig
from flamingo.data.builders.interleaved import Interleaved
from flamingo.data.encode import EncodedDocuments, make_batch
from flamingo.data.loader import process_loader
from flamingo.data.order import Endless, Shuffled
from flamingo.data.readers.shards import Shards
from flamingo.data.record import LazySequence, Record, Subset
from flamingo.data.sources import check_pictures, of_split, open_source, readable
from flamingo.data.usable import usable
from flamingo.evaluation.metrics.captions import CiderReward
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import nearest
from flamingo.synthetic import SyntheticDocumentsConfig
from flamingo.synthetic.documents import SyntheticDocuments
from flamingo.synthetic.scenes import Split
from flamingo.training.losses import LOSSES
from flamingo.training.step import DataSet
from flamingo.utils.checks import within
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of

log = logging.getLogger(__name__)


@dataclass
class CaptionedImages:
    """The images of a source, or of one split of it, and by id why others were left out."""

    images: LazySequence
    skipped: dict[str, str]
    #: All images that the source, or the split, names, before any was opened.
    listed: LazySequence


def listed_images(root: str, images: str | None, format: str | None, split: str | None) -> LazySequence:
    """Return the images that a source, or one split of it, names; no picture is opened.

    Raises:
        UserError: For a source that cannot be read.
    """
    source = open_source(root, images, format)
    return source if split is None else of_split(source, split)


def captioned_images(
    root: str, images: str | None, format: str | None, split: str | None, opens: bool = True
) -> CaptionedImages:
    """Read a source, or one split of it, and find broken pictures before they are needed.

    Nobody repairs one of millions of samples: broken pictures in shards are left out. One beside a file of captions is
    an error.

    Args:
        root: A folder, a file, or a pattern of shards.
        images: The folder of the photographs; None: it is searched.
        format: How the captions are written; None: it is recognised.
        split: None: all of them.
        opens: Whether photographs beside a file of captions are opened, too. Computing features opens all of them.

    Raises:
        UserError: For a source that cannot be read, and for a photograph that cannot be opened.
    """
    listed = listed_images(root, images, format, split)
    chosen, skipped = listed, listed.skipped
    if _in_shards(listed):
        chosen, broken = readable(listed)
        skipped = skipped | broken
    elif opens:
        check_pictures(listed)
    found = f"{len(chosen)} images of {f'split {split}' if split else 'all splits'}"
    log.info("%s: %s%s", root, found, f", {len(skipped)} left out" if skipped else "")
    return CaptionedImages(chosen, skipped, listed)


def _in_shards(listed: LazySequence) -> bool:
    return isinstance(listed.source if isinstance(listed, Subset) else listed, Shards)


def check_documents(config: DataConfig, features_folder: str | None) -> None:
    """Raise UserError, naming the key, for documents that cannot be made, before any data is read."""
    if not config.documents:
        raise UserError("the config has no documents to train on: choose data=...")
    of_records = config.of_records()
    if not of_records:
        values = {f"data.{key}": getattr(config, key) for key in ("root", "images", "format", "split", "sample_split")}
        values["features.folder"] = features_folder
        for key, value in values.items():
            if value is not None:
                raise UserError(f"{key}={value} is for documents of kind=interleaved, and data.documents has none")
        return
    if config.root is None:
        raise UserError("captioned images are needed: say data.root=FOLDER, FILE or 'SHARDS-*.tar'")
    for name, documents in of_records.items():
        if documents.similar_prob > 0 and features_folder is None:
            raise UserError(
                f"data.documents.{name}.similar_prob={documents.similar_prob} compares images by their features: say "
                "features.folder=FOLDER"
            )


def check_images(config: DataConfig, trained: CaptionedImages | None) -> None:
    """Raise UserError for documents that these images are too few for."""
    for name, documents in config.of_records().items():
        assert trained is not None
        with within(f"data.documents.{name}"):
            Interleaved(replace(documents, similar_prob=0.0), trained.images, 0)
        loss = config.documents[name].loss
        if len(trained.images) < loss.min_records:
            raise UserError(
                f"data.documents.{name}.loss.kind={loss.kind} needs the captions of {loss.min_records} images or more"
            )


def training_images(
    config: DataConfig, processor: FlamingoProcessor, opens: bool
) -> tuple[CaptionedImages, CaptionedImages] | None:
    """Return the images that documents for training are made of, and those for samples; None if no documents are.

    Images whose captions the documents cannot hold are left out: see :func:`flamingo.data.usable.usable`. ``opens`` is
    that of :func:`captioned_images`.

    Raises:
        UserError: For a source that cannot be read, and where too few images are left.
    """
    of_records = config.of_records()
    if not of_records:
        return None
    longest = max(of_records, key=lambda name: of_records[name].max_images)
    max_images = of_records[longest].max_images
    new_tokens = max(config.documents[name].loss.tokens_to_generate() for name in of_records)

    assert config.root is not None
    root = config.root

    def read(split: str | None) -> CaptionedImages:
        source = captioned_images(root, config.images, config.format, split, opens)
        try:
            images, skipped = usable(source.images, processor, max_images, new_tokens)
        except UserError as error:
            raise UserError(f"data.documents.{longest}.max_images: {error}") from error
        return CaptionedImages(images, source.skipped | skipped, source.listed)

    trained = read(config.split)
    sampled = read(config.sample_split) if config.sample_split else trained
    return trained, sampled


def pictures(config: DataConfig, trained: CaptionedImages, sampled: CaptionedImages) -> list[Image]:
    """All that documents for training and for samples are made of."""
    images = [own.image for own in trained.images]
    num_crops = max(documents.num_crops for documents in config.of_records().values())
    crops = [image.view(number) for number in range(num_crops) for image in images]
    return crops + [own.image for own in sampled.images]


def make_data(
    config: DataConfig,
    images: CaptionedImages | None,
    processor: FlamingoProcessor,
    features: FeatureStore | None,
    seed: int,
    workers: int,
) -> list[DataSet]:
    """A data set for each of the config's ``documents``."""

    @cache
    def make_reward() -> CiderReward:
        assert images is not None
        return CiderReward([own.captions for own in images.images])

    sets = []
    for name, entry in config.documents.items():
        documents = entry.documents
        # Data sets of one run differ in their order, and in what they draw.
        own_seed = f"{seed} {name}"
        if entry.of_records:
            assert images is not None
            endless: Endless[Document] = _interleaved(images.images, documents, features, own_seed)
            encoded = EncodedDocuments(
                endless, processor, features, documents.captions_per_image, documents.p_next, own_seed
            )
        else:
            # The synthetic benchmark draws its pictures when they are asked for: there is nothing to keep.
            endless = Shuffled(_synthetic(documents, "training", seed), own_seed)
            encoded = EncodedDocuments(endless, processor, p_next=documents.p_next, seed=own_seed)
        collate = partial(make_batch, pad_token_id=processor.tokenizer.pad_token_id, pack_to=documents.pack_to)
        loader = process_loader(encoded, collate, documents.batch_size, workers)
        loss = class_of(LOSSES, entry.loss.kind)(entry.loss, processor, make_reward)
        sets.append(DataSet(name, loader, documents.weight, processor.normalized, loss))
    return sets


def sample_documents(config: DataConfig, images: CaptionedImages | None, number: int) -> list[Document]:
    """So many of each kind, as long as they can be."""
    documents: list[Document] = []
    for entry in config.documents.values():
        longest = entry.documents.max_images
        if entry.of_records:
            assert images is not None
            longest = min(longest, len(images.images))
            sampled = InterleavedConfig(min_images=longest, max_images=longest, batch_size=1)
            of_kind: Endless[Document] = Interleaved(sampled, images.images, 0)
        else:
            of_kind = _synthetic(replace(entry.documents, min_images=longest, text_prefix_prob=0.0), "evaluation", 0)
        documents += [of_kind[index] for index in range(number)]
    return documents


def _synthetic(config: SyntheticDocumentsConfig, split: Split, seed: int) -> SyntheticDocuments:
    kind = config.kind.removeprefix("synthetic_")
    return SyntheticDocuments(kind, split, seed, config.min_images, config.max_images, config.text_prefix_prob)


def _interleaved(
    images: Sequence[Record], config: InterleavedConfig, features: FeatureStore | None, seed: str
) -> Interleaved:
    neighbours = None
    if config.similar_prob > 0:
        if features is None:
            raise UserError("documents of similar images need features.folder=FOLDER, by which images are compared")
        pooled = features.pooled([own.image for own in images])
        neighbours = nearest(pooled, pooled, config.max_images - 1).numpy()
    return Interleaved(config, images, seed, neighbours)
