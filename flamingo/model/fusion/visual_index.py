"""Which visual token stands at which position of a text, where visual tokens take the place of image markers."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F


def index_of_markers(input_ids: Int[Tensor, "bn t"], image_token_id: int, tokens_per_image: int) -> Int[Tensor, "bn t"]:
    """Returns for each position the index of the visual token that stands there, -1 for text.

    An image has ``tokens_per_image`` markers in a row, the first of which is the first of the row of ``input_ids``::

        input_ids        a  #  #  #  b  #  #  #  #  #  #         # is the marker, 3 tokens per image
        visual_index    -1  0  1  2 -1  0  1  2  0  1  2
    """
    is_marker = input_ids == image_token_id
    number = is_marker.cumsum(dim=-1) - 1
    return torch.where(is_marker, number % tokens_per_image, -1)


def whole_images(
    index: Int[Tensor, "bn t"], image_index: Int[Tensor, "bn t"], tokens_per_image: int
) -> Bool[Tensor, " bn"]:
    """Returns for each row whether all markers of an image follow one another and have the same ``image_index``."""
    is_text = index < 0
    counts_on = index[:, 1:] == index[:, :-1] + 1
    same_image = image_index[:, 1:] == image_index[:, :-1]
    continues = counts_on & same_image & ~is_text[:, :-1]
    begins = index == 0
    ends = index == tokens_per_image - 1
    has_previous = begins | F.pad(continues, (1, 0), value=False)
    has_next = ends | F.pad(continues, (0, 1), value=False)
    return (is_text | (has_previous & has_next)).all(dim=1)
