"""The vectors of classes by a dual encoder, and the probabilities of images: zero-shot classification as in CLIP."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from flamingo.data.document import Image
from flamingo.inference.dual_encoder import DualEncoder

#: The place of the name of a class in a template.
NAME_PLACE = "{}"


def class_vectors(
    encoder: DualEncoder, names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "classes width"]:
    """Returns the vector of each class: the mean of the vectors of its prompts, with length 1.

    Args:
        encoder: Makes vectors of texts, of length 1.
        names: The names of the classes.
        templates: Texts with :data:`NAME_PLACE`, such as ``a photo of a {}.`` Each makes one prompt for each class.
    """
    prompts = []
    for name in names:
        prompts += [template.replace(NAME_PLACE, name) for template in templates]
    vectors = encoder.text_vectors(prompts).unflatten(0, (len(names), len(templates)))
    return F.normalize(vectors.mean(dim=1), dim=-1)


def class_probabilities(
    encoder: DualEncoder, images: Sequence[Image], vectors: Float[Tensor, "classes width"]
) -> Float[Tensor, "images classes"]:
    """Returns the probability of each class: the softmax of the encoder's scale times the cosines."""
    cosines = encoder.image_vectors(images) @ vectors.T
    return torch.softmax(encoder.scale * cosines, dim=-1)
