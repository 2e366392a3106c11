"""Checks that an encoder accepts images of another size than its own."""

import torch
from PIL import Image as PILImage

from flamingo.data.document import Image
from flamingo.data.processor import FlamingoProcessor
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.vision import image_size
from flamingo.model.vision_probe import check_encoder
from flamingo.utils.errors import UserError


def checked_image_size(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, side: int | None
) -> tuple[int, int]:
    """Returns the height and width, in pixels, of the images that the image processor makes and the encoder accepts.

    Args:
        model: The model.
        processor: Its processor.
        side: The side of images in pixels that the config sets; None: the encoder's own.

    Raises:
        UserError: If the encoder does not accept them; the error begins with ``model.image_size``.
    """
    usual = image_size(model.vision_model.config)
    height, width = usual if side is None else (side, side)
    blank = Image(PILImage.new("RGB", (width, height)))
    made_height, made_width = processor.pixel_values([blank]).shape[-2:]
    made = (made_height, made_width)
    if side is not None and made != (side, side):
        name = type(processor.image_processor).__name__
        raise UserError(f"model.image_size is {side}, but {name} makes pictures of {made[0]} x {made[1]} pixels")
    if made == usual:
        return made
    try:
        check_encoder(model.vision_model, model.config.vision_features, made, torch.Generator().manual_seed(0))
    except UserError as error:
        raise UserError(f"model.image_size: {error}; its own pictures have {usual[0]} x {usual[1]} pixels") from error
    return made
