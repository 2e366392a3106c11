"""Pads a batch of images, so that the features of an image do not depend on the images that run with it."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from flamingo.utils.devices import HOST


def padded(images: Shaped[Tensor, "m ..."], full: int, device: torch.device) -> Shaped[Tensor, "padded ..."]:
    """Returns the images, with the last one repeated.

    Which images are missing in a cache depends on the number of processes and on earlier runs. A GPU chooses a kernel,
    and with it the rounding, by the size of the batch: all batches get the full size there. On a CPU only a single
    image differs, by the convolutions of some encoders: it gets a second one. There MobileNets without kept features
    still round by the size of the batch.

    Args:
        images: A batch of images, in any form.
        full: The largest size of a batch.
        device: The device on which the images will run.
    """
    size = min(2, full) if device.type == HOST.type else full
    missing = size - len(images)
    if missing <= 0:
        return images
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
