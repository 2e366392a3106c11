"""A batch without images -> the same batch with an image that no token sees."""

from dataclasses import replace
from typing import Any

import torch

from flamingo.data.collate import Batch
from flamingo.data.encode import IMAGES
from flamingo.model.vision import image_size


def with_masked_image(batch: Batch, model: Any) -> Batch:
    """Returns the batch with one blank image for the encoder if no token sees an image; otherwise the batch itself.

    The encoder, the connector and the gated blocks then compute as for any other batch, and the gradient of the image
    is zero: the blocks replace the attention of a token without an image by zeros.

    Args:
        batch: The batch on its device, after its data set's ``prepare``.
        model: A :class:`flamingo.FlamingoForConditionalGeneration`.
    """
    tensors = dict(batch.tensors)
    image_index = tensors["image_index"]
    num_images = sum(tensors[name].shape[1] for name in IMAGES if name in tensors)
    places = tensors.get("image_places")
    if num_images > 0 and (places is None or len(places) > 0):
        return batch
    if num_images == 0:
        height, width = image_size(model.vision_model.config)
        blank = torch.zeros(1, 1, 3, height, width, device=image_index.device)
        tensors["pixel_values"] = blank.expand(len(image_index), -1, -1, -1, -1)
        tensors.pop("image_features", None)
    tensors["image_places"] = image_index.new_zeros(1)
    return replace(batch, tensors=tensors)
