"""The visual token at each position of a text, if visual tokens take the place of image markers."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F


def index_of_markers(input_ids: Int[Tensor, "bn t"], image_token_id: int, tokens_per_image: int) -> Int[Tensor, "bn t"]:
    """Returns the index of the visual token at each position, -1 for text.

    An image has ``tokens_per_image`` consecutive markers. Each row of ``input_ids`` begins with text or with an image's
    first marker::

        input_ids        a  #  #  #  b  #  #  #  #  #  #         # is the marker, 3 tokens per image
        visual_index    -1  0  1  2 -1  0  1  2  0  1  2
    """
    is_marker = input_ids == image_token_id
    number = is_marker.cumsum(dim=-1) - 1
    return torch.where(is_marker, number % tokens_per_image, -1)


def whole_images(
    index: Int[Tensor, "bn t"], image_index: Int[Tensor, "bn t"], tokens_per_image: int
) -> Bool[Tensor, " bn"]:
    """Returns whether all markers of an image in a row are consecutive and have the same ``image_index``.

    Args:
        index: The result of :func:`index_of_markers`.
        image_index: The image that each token sees.
        tokens_per_image: The number of markers of an image.
    """
    is_text = index < 0
    counts_on = index[:, 1:] == index[:, :-1] + 1
    same_image = image_index[:, 1:] == image_index[:, :-1]
    continues = counts_on & same_image & ~is_text[:, :-1]
    begins = index == 0
    ends = index == tokens_per_image - 1
    has_previous = begins | F.pad(continues, (1, 0), value=False)
    has_next = ends | F.pad(continues, (0, 1), value=False)
    return (is_text | (has_previous & has_next)).all(dim=1)
