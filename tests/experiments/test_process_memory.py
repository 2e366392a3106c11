"""No process holds a whole language model while processes load it together."""

import pytest
import torch

from experiments.benchmark.materials import Sizes, save_language, save_vision
from experiments.benchmark.process_memory import measured

#: 309 MB in float32, of which a layer has 13 MB.
SIZES = Sizes(
    width=512,
    layers=16,
    heads=8,
    vision_width=64,
    vision_layers=1,
    image_size=32,
    patch=8,
    every=8,
    train_batch=1,
    train_images=2,
    train_tokens=16,
)
#: Less than the other process's shard.
ALLOWED = 80_000_000


@pytest.mark.full
def test_the_peak_of_loading_is_a_shard_and_a_layer(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # of new processes, and no longer than this test
    torch.manual_seed(0)
    save_language(tmp_path / "language", SIZES.shape())
    save_vision(tmp_path / "vision", SIZES.shape())
    measures = {}
    for whole in (False, True):
        # New processes: one that is forked would take memory that the tests before have freed.
        measures[whole] = measured(tmp_path, SIZES, 2, whole)
    for shared, alone in zip(measures[False], measures[True], strict=True):
        layer = shared["bound"] - shared["shard"] - 500_000_000
        assert 154_000_000 < shared["shard"] == alone["shard"] < 156_000_000
        assert shared["loading"] < shared["shard"] + layer + ALLOWED < alone["loading"]
        assert shared["optimizer"] > 2 * shared["gradients"] > 0
