"""Fields of the JSON of pages, which are untrusted. Each error begins with the kind of the fault, up to a colon."""

import base64
import binascii
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from flamingo.data.document import Image
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.pages.page import PageImage, SectionBreak
from flamingo.utils.errors import UserError

#: What OBELICS and M4 write into texts where a section of a page ends.
SECTION_BREAK = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"

Value = TypeVar("Value")


def page_field(values: dict[str, Any], name: str, kind: type[Value]) -> Value:
    """Returns a field of a JSON object.

    Raises:
        UserError: If it is missing or of another type.
    """
    value = values.get(name)
    if not isinstance(value, kind):
        raise UserError(f"wrong field {name}: it must be of type {kind.__name__}, got {reprlib.repr(value)}")
    return value


def page_list(values: dict[str, Any], name: str, kind: type[Value] | tuple[type[Value], ...]) -> list[Value]:
    """Returns a field of a JSON object that is a list of this type, or of these types.

    Raises:
        UserError: If it is missing, no list, or has an element of another type.
    """
    elements: list[Any] = page_field(values, name, list)
    for element in elements:
        if not isinstance(element, kind):
            raise UserError(f"wrong field {name}: it has an element {reprlib.repr(element)}")
    return elements


def page_text(text: Any) -> str:
    """Returns a text of a page.

    Raises:
        UserError: If it is no text, or has an unpaired surrogate, which tokenizers refuse.
    """
    if not isinstance(text, str):
        raise UserError(f"a text of another type: {reprlib.repr(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"half a character: {error}") from error
    return text


def page_matrix(
    values: dict[str, Any], name: str, num_rows: int, num_columns: int
) -> Float[np.ndarray, "rows columns"]:
    """Returns a field of a JSON object that is a matrix of finite numbers.

    Raises:
        UserError: If it is missing, of another shape, or has another element.
    """
    rows = page_list(values, name, list)
    try:
        matrix: np.ndarray = np.array(rows)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"wrong field {name}: {error}") from error
    # No texts, which NumPy would turn into numbers.
    if matrix.dtype.kind not in "if" or matrix.shape != (num_rows, num_columns) or not np.isfinite(matrix).all():
        raise UserError(
            f"wrong field {name}: it must be {num_rows} rows of {num_columns} finite numbers, its shape is "
            f"{matrix.shape} and its type {matrix.dtype}"
        )
    return matrix.astype(np.float64)


def decoded_text(content: bytes) -> str:
    """Returns a text in UTF-8.

    Raises:
        UserError: If it is in another encoding.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"a text is not UTF-8: {error}") from error


def sections(text: str) -> list[str | SectionBreak]:
    """Returns a text that is divided where sections of the page end. A text without such a place stays as it is."""
    if SECTION_BREAK not in text:
        return [text]
    parts: list[str | SectionBreak] = []
    for number, section in enumerate(text.split(SECTION_BREAK)):
        if number:
            parts.append(SectionBreak())
        if section.strip():
            parts.append(section.strip())
    return parts


def base64_image(name: str, text: Any, origin: str) -> PageImage:
    """Returns an image whose file is a text in base64; None: the data lack the picture.

    Args:
        name: The image's name on the page.
        text: The file in base64, or None.
        origin: The shard, the sample and the image, for errors.

    Raises:
        UserError: If the text is not base64.
    """
    if text is None:
        return PageImage(name, None, fault="image missing")
    try:
        content = base64.b64decode(text)
    except (binascii.Error, ValueError, TypeError) as error:
        raise UserError(f"broken base64: {error}") from error
    return PageImage(name, Image(EmbeddedPicture(origin, content)), len(content))


def checked_place(entry: Any) -> Any:
    """Returns the place of a sample in its shard.

    Raises:
        UserError: If the entry is a text, the reason why there is no sample.
    """
    if isinstance(entry, str):
        raise UserError(entry)
    return entry


def damaged(places: Sequence[Any], damage: str | None) -> list[Any]:
    """Returns the places of a shard, and one more for its damage, if there is one: it counts as a broken sample."""
    return [*places, f"damaged shard: {damage}"] if damage else list(places)


@contextmanager
def shard_errors() -> Iterator[None]:
    """Turns errors of reading a shard in the block into broken samples.

    Raises:
        UserError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"the shard cannot be read: {error}") from error
