"""An image of a document -> a small JPEG for a page of HTML."""

import io

from flamingo.data.document import Image
from flamingo.data.transforms.pictures import open_image
from flamingo.report.contact_sheet import jpeg_uri
from flamingo.utils.errors import UserError


def thumbnail(image: Image, side: int) -> str | None:
    """Returns the first frame as a data URI; None if it cannot be opened.

    Args:
        image: The image.
        side: The longer side in pixels.
    """
    try:
        picture = open_image(image.frames[0])
    except UserError:
        return None
    picture.thumbnail((side, side))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return jpeg_uri(content.getvalue())
