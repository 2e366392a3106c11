"""From a config's ``data`` to the documents that a run is trained on: synthetic ones, or captioned images."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from omegaconf import MISSING

from experiments.loading import data_set
from flamingo import Document, FlamingoProcessor, Image
from flamingo.data.builders.interleaved import Interleaved
from flamingo.data.collate import Example, collate
from flamingo.data.order import Endless, Shuffled
from flamingo.data.packing import pack
from flamingo.data.readers.shards import Shards
from flamingo.data.record import CaptionedImage, Lazy
from flamingo.data.sources import Chosen, check_pictures, load, of_split, readable
from flamingo.data.usable import usable
from flamingo.evaluation.metrics.captions import CiderReward
from flamingo.inference.features import FeatureStore, nearest
from flamingo.synthetic.documents import TURNS, SyntheticDocuments
from flamingo.training.losses.self_critical import SelfCritical
from flamingo.training.step import Batch, DataSet, next_token
from flamingo.utils.checks import one_of, positive, probability, whole, within
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class DocumentsConfig:
    """One kind of documents, with ``least`` to ``most`` images each."""

    #: captions, binding or questions of the synthetic benchmark; images: of `data.root`.
    kind: str = MISSING
    least: int = MISSING
    most: int = MISSING
    batch: int = MISSING
    #: Of the synthetic benchmark: the probability that a document begins with lines of text in the place of pictures.
    told: float = 0.0
    #: The probability that a document's texts belong to the image behind them rather than before (Flamingo, A.3.2).
    p_next: float = 0.0
    #: Of images: the probability that those before the last one are its nearest neighbours.
    similar: float = 0.0
    #: Of images: in how many views one is shown, the image itself and random parts of it, of which half are mirrored.
    views: int = 1
    #: Of images: how many captions of each are learnt at once, which costs little more than one: in so many documents.
    versions: int = 1
    #: Tokens of a row that several short documents share; 0: each has its own, padded to the longest.
    pack: int = 0
    #: What is learnt: next_token; or cider: to say of the last image what scores well beside all versions' captions.
    objective: str = "next_token"
    weight: float = 1.0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, (*TURNS, "images"))
        for key in ("least", "batch", "views", "versions"):
            whole(key, getattr(self, key), least=1)
        whole("most", self.most, least=self.least)
        whole("pack", self.pack, least=0)
        for key in ("told", "p_next", "similar"):
            probability(key, getattr(self, key))
        positive("weight", self.weight)
        one_of("objective", self.objective, ("next_token", "cider"))
        unused = {"told": 0.0} if self.kind == "images" else {"similar": 0.0, "views": 1, "versions": 1}
        for key, neutral in unused.items():
            if getattr(self, key) != neutral:
                raise UserError(f"{key} is {getattr(self, key)}, but documents of kind={self.kind} have no use for it")
        if self.objective == "cider":
            self._check_reward()

    def _check_reward(self) -> None:
        needs = {"kind": self.kind == "images", "versions": self.versions > 1}
        needs |= {"pack": self.pack == 0, "p_next": self.p_next == 0}
        for key, right in needs.items():
            if not right:
                raise UserError(
                    f"{key} is {getattr(self, key)}, but objective=cider needs kind=images, several versions "
                    "(captions of the last image, as references), pack=0 and p_next=0"
                )


@dataclass
class DataConfig:
    """Captioned images, where there are any, and the documents that are made of them or of the synthetic benchmark."""

    #: A folder, a file, or a pattern of shards in quotes.
    root: str | None = None
    #: The folder of the images, where the captions' file lies elsewhere.
    images: str | None = None
    #: How the captions are written; null: as the files look.
    format: str | None = None
    #: Null: all of them.
    split: str | None = None
    #: The split that documents are drawn from whose answers are logged while training.
    sample_split: str | None = None
    documents: dict[str, DocumentsConfig] = field(default_factory=dict)


@dataclass
class CaptionedImages:
    """The images of a source, or of one split of it, and by id why others were left out."""

    images: Lazy
    skipped: dict[str, str]
    #: All images that the source, or the split, names, before any was opened.
    listed: Lazy


def listed_images(root: str, images: str | None, format: str | None, split: str | None) -> Lazy:
    """Return the images that a source, or one split of it, names; no picture is opened.

    Raises:
        UserError: For a source that cannot be read.
    """
    source = load(root, images, format)
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


def _in_shards(listed: Lazy) -> bool:
    return isinstance(listed.source if isinstance(listed, Chosen) else listed, Shards)


def check_documents(config: dict[str, Any], features_folder: str | None) -> None:
    """Raise UserError, naming the key, for documents that cannot be made, before any data is read."""
    if not config["documents"]:
        raise UserError("the config has no documents to train on: choose data=...")
    if all(chosen["kind"] != "images" for chosen in config["documents"].values()):
        given = {f"data.{key}": config[key] for key in ("root", "images", "format", "split", "sample_split")}
        given["features.folder"] = features_folder
        for key, value in given.items():
            if value is not None:
                raise UserError(f"{key}={value} is for documents of kind=images, and data.documents has none")
    for name, chosen in config["documents"].items():
        if chosen["kind"] == "images" and config["root"] is None:
            raise UserError("captioned images are needed: say data.root=FOLDER, FILE or 'SHARDS-*.tar'")
        if chosen["kind"] == "images" and chosen["similar"] > 0 and features_folder is None:
            raise UserError(
                f"data.documents.{name}.similar={chosen['similar']} compares images by their features: say "
                "features.folder=FOLDER"
            )


def check_images(config: dict[str, Any], trained: CaptionedImages | None) -> None:
    """Raise UserError for documents that these images are too few for."""
    for name, chosen in config["documents"].items():
        if chosen["kind"] == "images":
            assert trained is not None
            with within(f"data.documents.{name}"):
                Interleaved(trained.images, 0, chosen["least"], chosen["most"])
            if chosen["objective"] == "cider" and len(trained.images) < 2:
                raise UserError(f"data.documents.{name}.objective=cider needs the captions of 2 images or more")


def training_images(
    config: dict[str, Any], processor: FlamingoProcessor, opens: bool
) -> tuple[CaptionedImages, CaptionedImages] | None:
    """Return the images that documents for training are made of, and those for samples; None if no documents are.

    Images whose captions the documents cannot hold are left out: see :func:`flamingo.data.usable.usable`. ``opens`` is
    that of :func:`captioned_images`.

    Raises:
        UserError: For a source that cannot be read, and where too few images are left.
    """
    of_images = {name: chosen for name, chosen in config["documents"].items() if chosen["kind"] == "images"}
    if not of_images:
        return None
    longest = max(of_images, key=lambda name: of_images[name]["most"])
    by_reward = any(chosen["objective"] == "cider" for chosen in of_images.values())
    new_tokens = SelfCritical.max_new_tokens if by_reward else 0

    def read(split: str | None) -> CaptionedImages:
        source = captioned_images(config["root"], config["images"], config["format"], split, opens)
        try:
            images, skipped = usable(source.images, processor, of_images[longest]["most"], new_tokens)
        except UserError as error:
            raise UserError(f"data.documents.{longest}.most: {error}") from error
        return CaptionedImages(images, source.skipped | skipped, source.listed)

    trained = read(config["split"])
    return trained, read(config["sample_split"]) if config["sample_split"] else trained


@dataclass
class Encoded:
    """Documents as tensors, made when asked for, with their ids; from ``features``, if given, no image is opened.

    An item is ``versions`` documents that follow one another and show the same images, which the first one has.
    """

    documents: Endless[Document]
    processor: FlamingoProcessor
    features: FeatureStore | None = None
    versions: int = 1
    p_next: float = 0.0
    seed: int | str = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p_next <= 1:
            raise UserError(f"p_next must lie in [0, 1], got {self.p_next}")

    def __getitem__(self, position: int) -> tuple[list[Example], str]:
        first, *others = (self.documents[position * self.versions + version] for version in range(self.versions))
        next_image = random.Random(f"next image {self.seed} {position}").random() < self.p_next
        example = self.processor.encode(first, next_image=next_image, pixels=self.features is None, as_bytes=True)
        if self.features is not None:
            images = [chunk.image for chunk in first.chunks() if chunk.image is not None]
            example = replace(example, image_features=self.features.stacked(images))
        encoded = (self.processor.encode(other, next_image=next_image, pixels=False) for other in others)
        return [example, *encoded], first.id


def pictures(config: dict[str, Any], trained: CaptionedImages, sampled: CaptionedImages) -> list[Image]:
    """All that documents for training and for samples are made of."""
    images = [own.image for own in trained.images]
    views = max(chosen["views"] for chosen in config["documents"].values())
    return [image.view(number) for number in range(views) for image in images] + [own.image for own in sampled.images]


def make_data(
    config: dict[str, Any],
    images: CaptionedImages | None,
    processor: FlamingoProcessor,
    features: FeatureStore | None,
    seed: int,
    workers: int,
) -> list[DataSet]:
    """A data set for each of the config's ``documents``."""
    reward = None
    if any(chosen["objective"] == "cider" for chosen in config["documents"].values()):
        assert images is not None
        reward = CiderReward([own.captions for own in images.images])
    sets = []
    for name, chosen in config["documents"].items():
        # Data sets of one run differ in their order, and in what they draw.
        own_seed = f"{seed} {name}"
        documents: Endless[Document]
        if chosen["kind"] == "images":
            assert images is not None
            documents = _interleaved(images.images, chosen, features, own_seed)
        else:
            kind, least, most = chosen["kind"], chosen["least"], chosen["most"]
            synthetic = SyntheticDocuments(kind, "training", seed, least, most, chosen["told"])
            documents = Shuffled(synthetic, own_seed)
        # The synthetic benchmark draws its pictures when they are asked for: there is nothing to keep.
        of_images = chosen["kind"] == "images"
        kept, versions = (features, chosen["versions"]) if of_images else (None, 1)
        encoded = Encoded(documents, processor, kept, versions, chosen["p_next"], own_seed)
        batch = partial(_batch, pack_to=chosen["pack"], pad=processor.tokenizer.pad_token_id)
        loss = next_token if reward is None or chosen["objective"] != "cider" else SelfCritical(processor, reward)
        made = data_set(
            name,
            encoded,
            batch,
            batch_size=chosen["batch"],
            num_workers=workers,
            weight=chosen["weight"],
            prepare=processor.normalized,
            loss=loss,
        )
        sets.append(made)
    return sets


def _batch(encoded: list[tuple[list[Example], str]], pack_to: int, pad: int) -> Batch:
    ids = [name for _, name in encoded]
    if pack_to:
        return Batch(pack([versions for versions, _ in encoded], pack_to, pad), ids)
    examples = [example for versions, _ in encoded for example in versions]
    tensors = collate(examples, pad, "right")
    for name in tensors.keys() & {"pixel_values", "image_features"}:
        tensors[name] = tensors[name][:: len(examples) // len(encoded)]  # the other rows have no images of their own
    return Batch(tensors, ids)


def sample_documents(config: dict[str, Any], images: CaptionedImages | None, number: int) -> list[Document]:
    """So many of each kind, as long as they can be."""
    documents: list[Document] = []
    for chosen in config["documents"].values():
        of_kind: Endless[Document]
        if chosen["kind"] == "images":
            assert images is not None
            longest = min(chosen["most"], len(images.images))
            of_kind = Interleaved(images.images, 0, longest, longest)
        else:
            of_kind = SyntheticDocuments(chosen["kind"], "evaluation", 0, chosen["most"], chosen["most"])
        documents += [of_kind[index] for index in range(number)]
    return documents


def _interleaved(
    images: Sequence[CaptionedImage], chosen: dict[str, Any], features: FeatureStore | None, seed: str
) -> Interleaved:
    neighbours = None
    if chosen["similar"] > 0:
        if features is None:
            raise UserError("documents of similar images need features.folder=FOLDER, by which images are compared")
        pooled = features.pooled([own.image for own in images])
        neighbours = nearest(pooled, pooled, chosen["most"] - 1).numpy()
    shape = chosen["least"], chosen["most"], chosen["similar"]
    return Interleaved(images, seed, *shape, neighbours, chosen["views"], chosen["versions"])
