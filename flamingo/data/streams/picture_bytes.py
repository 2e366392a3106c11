"""Reads the pictures of a sample into memory, before the shard that holds them may be removed."""

from dataclasses import replace

from flamingo.data.document import Frame, Image, Readable
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.records.record import Record
from flamingo.utils.errors import UserError


def with_bytes(sample: Record | Page) -> Record | Page:
    """Returns the sample with the bytes of its pictures. They are not decoded.

    Raises:
        UserError: If the bytes of a picture cannot be read.
    """
    try:
        if isinstance(sample, Record):
            later = tuple(_image(image) for image in sample.later_images)
            return replace(sample, image=_image(sample.image), later_images=later)
        parts = tuple(_part(part) for part in sample.parts)
        unplaced = tuple(_page_image(image) for image in sample.unplaced)
        return replace(sample, parts=parts, unplaced=unplaced)
    except OSError as error:
        raise UserError(f"a picture cannot be read: {error}") from error


def _part(part: PagePart) -> PagePart:
    return _page_image(part) if isinstance(part, PageImage) else part


def _page_image(image: PageImage) -> PageImage:
    return image if image.image is None else replace(image, image=_image(image.image))


def _image(image: Image) -> Image:
    return Image(*[_frame(frame) for frame in image.frames])


def _frame(frame: Frame) -> Frame:
    """Returns the frame with its bytes. The name of a file, which is no part of the shard, stays."""
    if isinstance(frame, Readable) and not isinstance(frame, EmbeddedPicture):
        return EmbeddedPicture(str(frame), frame.read_bytes())
    return frame
