"""One file per layout of captioned images on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flamingo.data.record import LazySequence


@dataclass(frozen=True)
class Location:
    """Where a data set lies."""

    #: The file of captions, the folder of its metadata, or all shards.
    files: tuple[Path, ...]
    #: The folder of the images; None: it is searched around the file of captions.
    images: Path | None = None
    #: Whether only captions are needed: images are not searched then, and need not exist.
    captions_only: bool = False


#: Returns the records of a data set. Raises UserError, naming file and value, for a data set that cannot be read.
Reader = Callable[[Location], LazySequence]


@dataclass(frozen=True)
class Format:
    """A layout of captioned images on disk."""

    #: What it looks like, for the errors that list all formats.
    looks: str
    #: "module:function" of the :data:`Reader`.
    reader: str
    #: Whether the images lie in the files themselves, or where these say.
    has_images: bool = False
    #: Whether a data set may be several files.
    sharded: bool = False


READERS = {
    "coco": Format("COCO's captions_*.json", "flamingo.data.readers.coco:coco"),
    "karpathy": Format("Karpathy's dataset_*.json", "flamingo.data.readers.karpathy:karpathy"),
    "flickr": Format(
        "Flickr8k's captions.txt or Flickr8k.token.txt, Flickr30k's captions.txt, results.csv or "
        "results_20130124.token",
        "flamingo.data.readers.flickr:flickr",
    ),
    "jsonl": Format(
        'rows {"image": NAME, "captions": [...]} in a .jsonl',
        "flamingo.data.readers.jsonl:jsonl",
    ),
    "image_folder": Format(
        "a folder with metadata.jsonl or metadata.csv, file_name and text in each row",
        "flamingo.data.readers.image_folder:image_folder",
        has_images=True,
    ),
    "tar": Format(
        "WebDataset's .tar shards, KEY.jpg with KEY.json or KEY.txt",
        "flamingo.data.readers.tar_shards:tar",
        has_images=True,
        sharded=True,
    ),
    "parquet": Format(
        ".parquet shards with the columns image and captions, caption or text",
        "flamingo.data.readers.parquet_shards:parquet",
        has_images=True,
        sharded=True,
    ),
}
