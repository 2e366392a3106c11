"""The images of a batch of prompts -> their visual tokens, and for each token the number of the image that it sees."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flamingo.data.document import Image
from flamingo.inference.encoded_prompt import EncodedPrompt
from flamingo.inference.visual_token_cache import ImageKey, VisualTokenCache


def pool_images(
    cache: VisualTokenCache, rows: Sequence[EncodedPrompt], tokens: slice
) -> tuple[Float[Tensor, "1 m r v"], list[Int[Tensor, " t"]]]:
    """Returns the images that ``tokens`` of any prompt see, each once, and their numbers for each prompt."""
    pool: dict[ImageKey, Image] = {}
    number_of: dict[ImageKey, int] = {}
    image_index = []
    for row in rows:
        row_index = row.image_index[tokens]
        visible = set(row_index.tolist())
        numbers = []
        for old_number, key in enumerate(row.keys):
            if old_number in visible:
                pool[key] = row.images[old_number]
                numbers.append(number_of.setdefault(key, len(number_of)))
            else:
                numbers.append(-1)
        numbers.append(-1)  # image_index -1: no image
        image_index.append(torch.tensor(numbers)[row_index])
    visual_tokens = cache.get(list(pool.values()))
    return visual_tokens.unsqueeze(0), image_index


def pad_images(
    cache: VisualTokenCache, rows: Sequence[EncodedPrompt], tokens: slice
) -> tuple[Float[Tensor, "b m r v"], list[Int[Tensor, " t"]]]:
    """Returns all images of each prompt in their order, for tokens that see all images before them."""
    images: list[Image] = []
    for row in rows:
        images += row.images
    num_images = [len(row.images) for row in rows]
    per_row = cache.get(images).split(num_images)
    image_index = [row.image_index[tokens] for row in rows]
    return pad_sequence(per_row, batch_first=True), image_index
