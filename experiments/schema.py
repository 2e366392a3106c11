"""The configs that several commands share, as dataclasses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from flamingo import synthetic
from flamingo.data.builders import BUILDERS, DocumentsConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.source_config import SourceConfig
from flamingo.data.splits import share_a_split
from flamingo.data.streams.streamed_config import StreamedConfig
from flamingo.data.transforms import ASPECTS
from flamingo.evaluation.tasks import TASKS
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.connectors import ConnectorConfig
from flamingo.model.fusion import FusionConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.training.losses import LOSSES, LossConfig
from flamingo.utils.checks import one_of, whole, within
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds, load_kind

#: The library's kinds of documents, of records and of streamed samples, and the synthetic benchmark's.
STREAMED = "streamed"
ALL_BUILDERS: Kinds = BUILDERS | {STREAMED: (StreamedConfig, "flamingo.data.streams.row_groups:RowGroups")}
ALL_BUILDERS |= synthetic.BUILDERS
ALL_TASKS = TASKS | synthetic.TASKS

#: The name of a backbone that comes with the checkpoint of ``model.init_from``.
CHECKPOINT = "checkpoint"

#: Keys of ``data`` for documents that are made of captioned images.
_KEYS_OF_RECORDS = ("root", "images", "format", "split", "sample_split", "validation_split")

#: JSON values by name.
JSON = dict[str, Any]
#: An entry of a mapping or list of kinds, for which OmegaConf has no type. :func:`load_documents` makes it a dataclass.
Entry = Any


@dataclass
class WandbConfig:
    """Weights & Biases, the default tracker. `wandb sync` uploads what was logged offline."""

    #: Where wandb logs: offline, into the run's folder; online, to the server.
    mode: str = "offline"
    #: The project of wandb.
    project: str = "flamingo"
    #: The group of runs in wandb; null: none.
    group: str | None = None

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("online", "offline", "shared"))


@dataclass(kw_only=True)
class ModelConfig:
    """The frozen backbones and the trained parts between them."""

    #: The vision encoder: embedded, a folder or a hub name; checkpoint: that of init_from. The embedded one comes with
    #: the package.
    vision: str = "embedded"
    #: The language model: embedded, a folder or a hub name; checkpoint: that of init_from.
    language: str = "embedded"
    #: How images that are not square are resized; as_is: as the encoder's processor does.
    aspect: str = "as_is"
    #: The side of images in pixels; null: the encoder's own. Convolutional encoders take any.
    image_size: int | None = None
    #: The text after each image, which ends with {caption}, in training and in prompts.
    caption_template: str = CaptionTemplate().text
    #: The parts that train. A backbone that trains needs include_backbones=true.
    trainable: list[str] = field(default_factory=lambda: ["connector", "fusion", "new_tokens"])
    #: The run or checkpoint whose model this run starts from. The checkpoint sets all keys of the model except
    #: ``trainable`` and ``dropout``, unless the command line sets them.
    init_from: str | None = None
    #: Whether the language model starts from random weights.
    from_scratch: bool = False
    vision_features: VisionFeaturesConfig = field(default_factory=VisionFeaturesConfig)
    #: The layers of peft in a frozen backbone, by model/adapter=NAME; null: none.
    adapter: AdapterConfig | None = None
    #: Set by the group model/connector.
    connector: ConnectorConfig
    #: Set by the group model/fusion.
    fusion: FusionConfig

    def __post_init__(self) -> None:
        one_of("aspect", self.aspect, ASPECTS)
        if self.image_size is not None:
            whole("image_size", self.image_size, least=1)
        CaptionTemplate(self.caption_template)
        for part in self.trainable:
            one_of("trainable", part, BACKBONES + TRAINED_PARTS)
        if self.init_from is None and CHECKPOINT in (self.vision, self.language):
            raise UserError(f"init_from needs a value, since vision={self.vision} and language={self.language}")
        if self.init_from is not None and self.from_scratch:
            raise UserError("from_scratch cannot be set: the language model has the weights of init_from")


@dataclass
class DataSetConfig:
    """An entry of ``data.documents``: documents and their loss."""

    #: The documents.
    documents: DocumentsConfig
    #: The loss of the documents.
    loss: LossConfig

    @property
    def of_records(self) -> bool:
        """Whether the documents are made of the records of ``data.root``."""
        return self.documents.kind in BUILDERS


@dataclass
class StreamedSetConfig:
    """An entry of ``data.documents`` that is streamed from shards, and its loss."""

    #: The documents.
    documents: StreamedConfig
    #: The loss of the documents.
    loss: LossConfig


def load_documents(entry: Mapping[str, Entry], key: str) -> DataSetConfig | StreamedSetConfig:
    """Returns an entry of ``data.documents``, whose ``loss`` is next_token by default.

    Raises:
        UserError: With the key, for a value that is unknown, missing or out of range.
    """
    values = dict(entry)
    loss = load_kind(LOSSES, values.pop("loss", {"kind": "next_token"}), f"{key}.loss")
    documents = load_kind(ALL_BUILDERS, values, key)
    with within(key):
        loss.check_documents(documents)
    if isinstance(documents, StreamedConfig):
        return StreamedSetConfig(documents, loss)
    return DataSetConfig(documents, loss)


@dataclass(kw_only=True)
class DataConfig(SourceConfig):
    """Captioned images or questions, and the documents made of them or of the synthetic benchmark."""

    #: Captioned images: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME. Questions: a folder or a file.
    root: str | None = None
    #: The split that is trained on, or several, such as train+restval; null: all splits.
    split: str | None = None
    #: The split of the documents whose last answers are logged while training.
    sample_split: str | None = None
    #: The split of the held-out documents; null: sample_split, else the split that is made.
    validation_split: str | None = None
    #: Whether training decodes large JPEGs at 1/2, 1/4 or 1/8 of their size. This saves time and changes pixels a
    #: little. Evaluations and held-out documents decode whole pictures.
    draft: bool = False
    #: The kinds of documents by name, each with its loss. As a dataclass, a :class:`DataSetConfig` or a
    #: :class:`StreamedSetConfig`; in YAML and on the command line, the keys of its documents, and ``loss``.
    documents: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_split is not None and share_a_split(self.split, self.validation_split):
            raise UserError(f"validation_split={self.validation_split} is trained on: split={self.split or 'null'}")
        for name, entry in self.documents.items():
            if not isinstance(entry, DataSetConfig | StreamedSetConfig):
                self.documents[name] = load_documents(entry, f"documents.{name}")

    def drawn(self) -> dict[str, DataSetConfig]:
        """Returns the entries whose documents are made of records in memory, or drawn."""
        return {name: entry for name, entry in self.documents.items() if isinstance(entry, DataSetConfig)}

    def streamed(self) -> dict[str, StreamedConfig]:
        """Returns the documents that are streamed from shards."""
        streamed = {name: entry for name, entry in self.documents.items() if isinstance(entry, StreamedSetConfig)}
        return {name: entry.documents for name, entry in streamed.items()}

    def of_records(self) -> dict[str, DocumentsConfig]:
        """Returns the documents that are made of records."""
        return {name: entry.documents for name, entry in self.drawn().items() if entry.of_records}

    def without_neighbours(self) -> Self:
        """Returns the data with random images instead of neighbours, which need the features of all images."""
        entries = dict(self.documents)
        for name, entry in self.drawn().items():
            entries[name] = DataSetConfig(entry.documents.without_neighbours(), entry.loss)
        return replace(self, documents=entries)

    @property
    def of_questions(self) -> bool:
        """Whether the documents of records are made of questions; otherwise of captions."""
        return any(documents.of_questions for documents in self.of_records().values())


def check_documents(config: DataConfig, features_folder: str | None) -> None:
    """Checks that the documents can be made, before any data is read.

    Raises:
        UserError: With the key, for documents that cannot be made.
    """
    if not config.documents:
        raise UserError("the config has no documents to train on: choose data=...")
    of_records = config.of_records()
    opens_pictures = bool(config.streamed()) or (bool(of_records) and features_folder is None)
    if config.draft and not opens_pictures:
        raise UserError("data.draft=true is for pictures that training opens: it has features, or draws its pictures")
    if not of_records:
        values = {f"data.{key}": getattr(config, key) for key in _KEYS_OF_RECORDS}
        values["features.folder"] = features_folder
        for key, value in values.items():
            if value is not None:
                kinds = ", ".join(BUILDERS)
                raise UserError(f"{key}={value} is for documents of these kinds, and data.documents has none: {kinds}")
        return
    if config.root is None:
        raise UserError("the documents need captioned images: set data.root=FOLDER, FILE or 'SHARDS-*.tar'")
    for name, documents in of_records.items():
        if documents.of_questions != config.of_questions:
            raise UserError(
                f"data.documents.{name} shows captions, but other documents of the same data show questions"
            )
        if documents.num_neighbours > 0 and features_folder is None:
            raise UserError(
                f"data.documents.{name} shows similar images, which are found by features: set features.folder=FOLDER"
            )


def as_recorded(config: Any) -> JSON:
    """Returns a config as its ``config.yaml`` records it: mappings with the keys of the command line."""
    values = asdict(config)
    for name, entry in values.get("data", {}).get("documents", {}).items():
        values["data"]["documents"][name] = entry["documents"] | {"loss": entry["loss"]}
    return values
