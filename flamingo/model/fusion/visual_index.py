"""Which visual token stands at which position of a text, where visual tokens take the place of image markers."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


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
    first = index == 0
    last = index == tokens_per_image - 1
    follows = (index[:, 1:] == index[:, :-1] + 1) & (image_index[:, 1:] == image_index[:, :-1])
    has_next = torch.cat([follows & (index[:, :-1] >= 0), torch.zeros_like(first[:, :1])], dim=1)
    has_previous = torch.cat([torch.zeros_like(first[:, :1]), follows & (index[:, :-1] >= 0)], dim=1)
    is_text = index < 0
    return (is_text | ((first | has_previous) & (last | has_next))).all(dim=1)
