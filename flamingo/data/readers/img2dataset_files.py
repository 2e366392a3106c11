"""img2dataset's output format "files": a folder for each shard, with the images, their captions and their metadata."""

from pathlib import Path

from flamingo.data.document import Image
from flamingo.data.readers.tar_shards import PICTURES, captions_of_metadata, text_lines
from flamingo.data.records.record import Record, captions_of
from flamingo.data.streams import Entry
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object, regular_file


def img2dataset_entries(file: Path) -> list[Entry]:
    """Returns the names of the images ``KEY.jpg`` in the folder of a shard, ``00000`` for ``00000.parquet``.

    Raises:
        UserError: If the folder cannot be read.
    """
    folder = file.with_suffix("")
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error}") from error
    return [name for name in names if name.rpartition(".")[2].lower() in PICTURES]


def img2dataset_pair(file: Path, entry: Entry, images: Path | UrlStore | None) -> Record:
    """Returns the image of this name, with the caption of ``KEY.json``, or else of ``KEY.txt``.

    Args:
        file: The shard, the table of its metadata.
        entry: The name of the image.
        images: Not used: the images are in the folder of the shard.

    Raises:
        UserError: For an image without a caption.
    """
    picture = file.with_suffix("") / entry
    captions = captions_of_metadata(json_object(_content(picture.with_suffix(".json")) or b"{}", "its metadata"))
    if captions is None:
        captions = captions_of(text_lines(_content(picture.with_suffix(".txt")) or b""))
    return Record(picture.stem, Image(str(picture)), captions, None)


def _content(file: Path) -> bytes | None:
    """Returns the content of a file; None if there is none.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        return regular_file(file).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"a file cannot be read: {error}") from error
