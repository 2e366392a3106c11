"""The config of a data set that is streamed from shards."""

from dataclasses import dataclass
from typing import Any

from flamingo.data.builders import SAMPLE_BUILDERS, WebDocumentConfig
from flamingo.data.streams import SHARD_FORMATS
from flamingo.utils.checks import one_of, positive, whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_config, load_kind


@dataclass(kw_only=True)
class StreamedSourceConfig:
    """A source in shards, and the documents that are made of its samples."""

    #: The shards: a folder, a pattern in quotes, or a URL of them.
    root: str
    #: The format of the shards.
    format: str
    #: The folder of the images, if the shards only name them.
    images: str | None = None
    #: The folder of indexes, sizes, and copies of shards at URLs; null: beside the shards.
    cache: str | None = None
    #: The gigabytes of the copies of shards at URLs.
    cache_gb: float = 100.0
    #: The seconds in which a mebibyte of a shard at a URL must arrive.
    timeout: float = 60.0
    #: The attempts to read a shard at a URL.
    attempts: int = 5
    #: The share of the groups that are drawn from this source.
    weight: float = 1.0
    #: The most passes over this source; null: any number. The other sources then replace it.
    epochs: int | None = None
    #: The number of samples that are used; null: all. They are the first ones by the names of the shards.
    limit: int | None = None
    #: The documents: {kind: pairs} or {kind: web_document, ...}.
    documents: Any

    def __post_init__(self) -> None:
        one_of("format", self.format, SHARD_FORMATS)
        for key in ("weight", "cache_gb", "timeout"):
            positive(key, getattr(self, key))
        whole("attempts", self.attempts, least=1)
        for key in ("epochs", "limit"):
            value = getattr(self, key)
            if value is not None:
                whole(key, value, least=1)
        if isinstance(self.documents, dict):
            self.documents = load_kind(SAMPLE_BUILDERS, self.documents, "documents")
            self._check_samples()

    def _check_samples(self) -> None:
        """Checks that the documents are made of the samples of the format.

        Raises:
            UserError: For documents of pages from captioned images, or of captioned images from pages.
        """
        has_pages = SHARD_FORMATS[self.format].has_pages
        if has_pages != isinstance(self.documents, WebDocumentConfig):
            samples, kind = ("pages", "web_document") if has_pages else ("captioned images", "pairs")
            raise UserError(f"format={self.format} has {samples}: documents.kind must be {kind}")


@dataclass(kw_only=True)
class StreamedConfig:
    """Documents from shards of any number. Samples are drawn in groups, and a group fills rows of tokens."""

    #: The kind of documents.
    kind: str = "streamed"
    #: Groups of a batch, which all processes share.
    batch_size: int
    #: Samples of a group.
    group_size: int
    #: Rows of a group. Documents that do not fit are left out.
    rows: int
    #: Tokens of a row.
    pack_to: int
    #: Images of a row.
    max_images: int
    #: The factor of this data set's mean loss (lambda in Flamingo, section 2.4).
    weight: float = 1.0
    #: Streams that share the shards; a multiple of the number of machines.
    streams: int = 64
    #: Samples among which a stream shuffles.
    window: int = 10_000
    #: The sources by name. As a dataclass, a :class:`StreamedSourceConfig`.
    sources: dict[str, Any]

    def __post_init__(self) -> None:
        for key in ("batch_size", "group_size", "rows", "pack_to", "max_images", "streams", "window"):
            whole(key, getattr(self, key), least=1)
        positive("weight", self.weight)
        if not self.sources:
            raise UserError("sources needs a source: sources={NAME: {root: FOLDER, format: FORMAT, documents: ...}}")
        for name, source in self.sources.items():
            if not isinstance(source, StreamedSourceConfig):
                self.sources[name] = load_config(StreamedSourceConfig, source, f"sources.{name}")
            self._check_room(name, self.sources[name].documents)

    def _check_room(self, name: str, documents: object) -> None:
        """Checks that a row has room for each window of pages: otherwise long documents would all be left out.

        Raises:
            UserError: For windows that are larger than a row.
        """
        if not isinstance(documents, WebDocumentConfig):
            return
        key = f"sources.{name}.documents"
        if documents.max_tokens > self.pack_to:
            raise UserError(f"{key}.max_tokens={documents.max_tokens} is more than a row has: pack_to={self.pack_to}")
        if documents.max_images > self.max_images:
            raise UserError(f"{key}.max_images={documents.max_images} is more than a row has: {self.max_images}")
