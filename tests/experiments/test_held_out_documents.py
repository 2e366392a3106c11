"""Held-out documents of a small validation split, whose images are near-duplicates of each other."""

import logging
from types import SimpleNamespace

import pytest
import torch

from experiments.setup.build_data import documents_of
from experiments.setup.build_monitoring import held_out_documents
from flamingo.data.builders import InterleavedConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.data.records.record import Record
from flamingo.inference.retrieval import NeighboursError

TEMPLATE = CaptionTemplate("Output: {caption}")


def test_near_duplicates_are_replaced_by_random_images(caplog):
    records = [Record(f"{number}", Image(f"{number}.png"), (f"caption {number}",), None) for number in range(4)]
    pooled = torch.eye(2).repeat(2, 1)  # each image has one duplicate
    features = SimpleNamespace(pooled=lambda images: pooled)
    config = InterleavedConfig(min_images=4, max_images=4, similar_prob=0.5, batch_size=1)
    with pytest.raises(NeighboursError):
        documents_of(config, records, features, "seed", TEMPLATE)
    with caplog.at_level(logging.INFO):
        documents = held_out_documents(config, records, features, "seed", TEMPLATE)
    images = [chunk.image.frames[0] for chunk in documents[0].chunks() if chunk.image is not None]
    assert sorted(images) == ["0.png", "1.png", "2.png", "3.png"]
    assert "random images" in caplog.text
