"""The columns of Arrow and Parquet tables that hold captioned images, as the hub stores them. Needs pyarrow."""

import re
from importlib import import_module
from typing import Any

from flamingo.data.readers.shards import Broken, Sample
from flamingo.data.records.record import captions_of, split_named
from flamingo.utils.errors import UserError

#: A table has one of these columns, or numbered ones such as ``caption_0``.
_CAPTIONS = ("captions", "caption", "text")
#: The columns of pictures that img2dataset writes, one by its ``encode_format``. Rows of failed downloads have none.
PICTURE_COLUMNS = ("jpg", "png", "webp")
_NUMBERED = re.compile(r"(?:caption|text)_(\d+)")


class Columns:
    """The columns of a table that make a sample, found by its schema."""

    def __init__(self, schema: Any) -> None:
        """Finds the columns.

        Raises:
            UserError: If the schema has no images, or no captions.
        """
        #: The column of images: ``image``, the only struct with bytes, which the hub shows as images, or img2dataset's.
        self.image = _image_column(schema)
        self._is_struct = not _is_bytes(schema.field(self.image).type)
        self._captions = _caption_columns(schema)
        self._is_downloaded = self.image in PICTURE_COLUMNS
        others = ["id", "split"] + (["key", "status"] if self._is_downloaded else [])
        #: The columns that are read while a file is indexed.
        self.texts = self._captions + [name for name in others if name in schema.names]

    @property
    def may_lack_pictures(self) -> bool:
        """Whether rows have a status, and those of failed downloads have no picture."""
        return "status" in self.texts

    def has_picture(self, row: dict[str, Any]) -> bool:
        """Returns whether the picture of a row was downloaded, if it had to be."""
        return row.get("status", "success") == "success"

    @property
    def image_bytes(self) -> str:
        """The name under which ``read_row_group`` finds the bytes of images."""
        return f"{self.image}.bytes" if self._is_struct else self.image

    def sample(self, row: dict[str, Any], default_id: str, location: tuple[Any, ...]) -> Sample | Broken:
        """Returns the sample of a row.

        Args:
            row: The values of the columns ``texts``.
            default_id: The id if the table has no column ``id``.
            location: The place of the picture, for the sample.
        """
        own_id = row.get("id", row.get("key"))
        id = default_id if own_id is None else str(own_id)
        captions = row[self._captions[0]]
        if captions is None:
            captions = []
        if len(self._captions) > 1:
            captions = [row[name] for name in self._captions if row[name] is not None]
        if not self.has_picture(row):
            return Broken(id, f"{row['status']}: its picture was not downloaded")
        try:
            return Sample(id, captions_of(captions), location, split_named(row.get("split")))
        except UserError as error:
            return Broken(id, str(error))


def image_bytes(cell: Any) -> bytes:
    """Returns the bytes of a cell of the column of images.

    Raises:
        UserError: If the cell is empty.
    """
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if content is None:
        raise UserError("its row has no bytes")
    return content


def pyarrow_module(name: str) -> Any:
    """Returns a module of pyarrow.

    Raises:
        UserError: If pyarrow is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError("Parquet and Arrow files need the package pyarrow: pip install 'flamingo[parquet]'") from error


def _image_column(schema: Any) -> str:
    if "image" in schema.names:
        kind = schema.field("image").type
        if _is_bytes(kind) or _has_bytes(kind):
            return "image"
        raise UserError(f"the column image must be bytes, or a struct with bytes; it is: {kind}")
    structs = [field.name for field in schema if _has_bytes(field.type)]
    downloaded = [name for name in PICTURE_COLUMNS if name in schema.names and _is_bytes(schema.field(name).type)]
    candidates = structs or downloaded
    if len(candidates) == 1:
        return candidates[0]
    raise UserError(
        f"the column image must be bytes, or a struct with bytes; there is no such column: {_names(schema)}"
    )


def _has_bytes(kind: Any) -> bool:
    """Returns whether this Arrow type is a struct with bytes, as ``datasets`` stores images."""
    fields = list(kind) if str(kind).startswith("struct<") else []
    return any(field.name == "bytes" and _is_bytes(field.type) for field in fields)


def _is_bytes(kind: Any) -> bool:
    """Returns whether this Arrow type holds bytes: Arrow has three such types, and dictionaries of them."""
    held = kind.value_type if str(kind).startswith("dictionary<") else kind
    return str(held) in ("binary", "large_binary", "binary_view")


def _caption_columns(schema: Any) -> list[str]:
    columns = [name for name in _CAPTIONS if name in schema.names]
    if len(columns) == 1:
        return columns
    numbered = {name: match for name in schema.names if (match := _NUMBERED.fullmatch(name))}
    if numbered and not columns:
        return sorted(numbered, key=lambda name: int(numbered[name][1]))
    raise UserError(f"one column must be {', '.join(_CAPTIONS)}, or numbered as caption_0; there are {_names(schema)}")


def _names(schema: Any) -> str:
    return ", ".join(schema.names)
