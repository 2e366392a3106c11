"""The documents of a config's data -> counts, what is left out, throughput, and some documents with their images."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

from experiments.inspect_data import InspectDataConfig
from experiments.runs.thumbnails import thumbnail
from experiments.schema import DataConfig, DataSetConfig
from experiments.setup.build_data import build_records, encoded_documents, training_documents
from experiments.setup.streamed_data import own_seed, row_groups
from flamingo import Document, FlamingoProcessor
from flamingo.data.batch_sizes import BatchSizes
from flamingo.data.collate import EncodedExample
from flamingo.data.drops import Drops
from flamingo.data.encode import EncodedDocuments, sizes_of
from flamingo.data.shortening import TooManyTokensError
from flamingo.data.streams.row_groups import RowGroups
from flamingo.data.streams.streamed_config import StreamedConfig
from flamingo.report.documents_page import Passage, ShownDocument
from flamingo.synthetic import backbones
from flamingo.utils.errors import UserError

#: The longer side of a thumbnail in pixels.
_THUMBNAIL = 200
#: What a document of records that is too long loses.
_TOO_LONG = "image of a document with too many tokens"


@dataclass
class InspectedDocuments:
    """The documents of an entry of ``data.documents``."""

    #: Samples that were drawn: records, questions or samples of shards.
    samples: int
    documents: int = 0
    images: int = 0
    tokens: int = 0
    #: What is left out, by reason.
    drops: Drops = field(default_factory=Drops)
    #: The time in which one process makes these documents, with their pixels.
    seconds: float = 0.0
    shown: list[ShownDocument] = field(default_factory=list)

    def count(self, documents: int, sizes: BatchSizes, drops: Drops, seconds: float) -> None:
        """Adds the documents of one item of a data set."""
        self.documents += documents
        self.images += sizes.images
        self.tokens += sizes.tokens
        self.drops += drops
        self.seconds += seconds


def inspect_documents(config: InspectDataConfig) -> dict[str, InspectedDocuments]:
    """Returns the documents of each entry of ``data.documents``, as a training with the same seed makes them.

    Documents of neighbours have random images.

    Raises:
        UserError: For data that cannot be read, and for a document that cannot be made.
    """
    processor = _processor(config)
    data = replace(config.data.without_neighbours(), broken_images="skip")
    if data.draft:
        processor = processor.drafted()
    inspected: dict[str, InspectedDocuments] = {}
    for name, streamed in data.streamed().items():
        groups = row_groups(name, streamed, processor, own_seed(config.seed, name))
        inspected[name] = _of_groups(groups, streamed, config)
    inspected |= _of_items(data, config, processor)
    return {name: inspected[name] for name in data.documents}


def _processor(config: InspectDataConfig) -> FlamingoProcessor:
    vision = str(backbones.VISION) if config.vision == "embedded" else config.vision
    language = config.tokenizer or str(backbones.LANGUAGE)
    return FlamingoProcessor.from_vision_text_pretrained(vision, language)


def _of_groups(groups: RowGroups, streamed: StreamedConfig, config: InspectDataConfig) -> InspectedDocuments:
    num_groups = math.ceil(config.counted_samples / streamed.group_size)
    if groups.mixture.num_groups is not None:
        num_groups = min(num_groups, groups.mixture.num_groups)
    inspected = InspectedDocuments(samples=0)
    for number in range(num_groups):
        begin = time.perf_counter()
        group = groups[number]
        inspected.count(len(group.ids), group.sizes, group.drops, time.perf_counter() - begin)
    documents = chain.from_iterable(map(groups.documents, range(num_groups)))
    for document in documents:
        inspected.samples += 1
        if isinstance(document, Document) and len(inspected.shown) < config.shown_documents:
            inspected.shown += _shown_documents(document, groups.processor, streamed.pack_to)
    return inspected


def _shown_documents(document: Document, processor: FlamingoProcessor, max_length: int) -> Iterator[ShownDocument]:
    """Yields the document, if it has a place in a row."""
    try:
        example = processor.encode(document, max_length=max_length, pixels=False)
    except (TooManyTokensError, UserError):
        return
    yield _shown(document.id, example, processor)


def _of_items(
    data: DataConfig, config: InspectDataConfig, processor: FlamingoProcessor
) -> dict[str, InspectedDocuments]:
    """Returns the documents of the entries that are not streamed."""
    if not data.drawn():
        return {}
    endless = training_documents(data, build_records(data, processor), processor.template, None, config.seed)
    inspected: dict[str, InspectedDocuments] = {}
    for name, documents in endless.items():
        entry = data.documents[name]
        assert isinstance(entry, DataSetConfig)
        items = encoded_documents(entry, documents, processor, None, own_seed(config.seed, name))
        inspected[name] = _of_entry(items, config, processor)
    return inspected


def _of_entry(items: EncodedDocuments, config: InspectDataConfig, processor: FlamingoProcessor) -> InspectedDocuments:
    inspected = InspectedDocuments(samples=config.counted_samples)
    for position in range(config.counted_samples):
        begin = time.perf_counter()
        item = items[position]
        seconds = time.perf_counter() - begin
        drops = Drops({_TOO_LONG: item.dropped_images} if item.dropped_images else {})
        inspected.count(len(item.examples), sizes_of(item.examples), drops, seconds)
        if position < config.shown_documents:
            inspected.shown.append(_shown(item.id, item.examples[0], processor))
    return inspected


def _shown(id: str, example: EncodedExample, processor: FlamingoProcessor) -> ShownDocument:
    assert example.labels is not None
    ids = example.input_ids.tolist()
    is_trained = (example.labels != -100).tolist()
    tokens = list(zip(ids, example.image_index.tolist(), is_trained, strict=True))
    marker = processor.image_token_id
    passages: list[Passage] = []
    num_markers = 0
    # Markers stand alone; other tokens are joined as long as they see the same image and are trained on alike.
    for (is_marker, image, trained), run in groupby(tokens, lambda token: (token[0] == marker, token[1], token[2])):
        run_ids = [token[0] for token in run]
        if not is_marker:
            passages.append(Passage(processor.tokenizer.decode(run_ids), image, trained))
            continue
        for _ in run_ids:
            picture = thumbnail(example.images[num_markers], _THUMBNAIL)
            passages.append(Passage("", num_markers, trained, is_image=True, picture=picture))
            num_markers += 1
    images = "1 image" if num_markers == 1 else f"{num_markers} images"
    facts = [f"{len(ids)} tokens", f"{sum(is_trained)} trained on", images]
    return ShownDocument(id, facts, passages)
