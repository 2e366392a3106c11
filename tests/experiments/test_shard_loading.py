"""The benchmark of shards compares loaders that make the same pixels."""

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from experiments.benchmark.shard_loading import jpeg_bytes, resized_by_pillow
from experiments.benchmark.shard_loading_worker import pixels_of
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.transforms.pixels import resized


@pytest.mark.parametrize("width, height", [(500, 375), (301, 402), (132, 132)])
def test_all_loaders_make_the_same_pixels(width, height):
    content = jpeg_bytes(0, width, height)
    [ours] = resized(CLIPImageProcessorPil(), [EmbeddedPicture("a", content)])
    assert torch.equal(pixels_of(content), ours)
    difference = resized_by_pillow(content).astype(np.int16) - ours.numpy()
    assert np.abs(difference).max() <= 2
