"""Fixtures: shards of captioned images, and a short run of the demo."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from tests.helpers.configs import composed
from tests.helpers.small_runs import ONE_SETTING, SMALL_DEMO

COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def photograph(number):
    """No two alike, and of different sizes."""
    rng = np.random.default_rng(number)
    small = PILImage.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((30 + number, 40), PILImage.Resampling.NEAREST)


def shard(path, numbers, keys=None, said=None):
    """``said`` has by number captions in the place of the usual ones."""
    with tarfile.open(path, "w") as file:
        for key, number in zip(keys or numbers, numbers, strict=True):
            picture = io.BytesIO()
            photograph(number).save(picture, "PNG")
            captions = (said or {}).get(number, [f"a dog {number}", f"{COLOURS[number % 6]} thing"])
            for suffix, content in (("png", picture.getvalue()), ("json", json.dumps({"captions": captions}).encode())):
                member = tarfile.TarInfo(f"{key:04}.{suffix}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "train-000000.tar", range(8))
    shard(folder / "train-000001.tar", range(8, 14))
    shard(folder / "dev-000000.tar", [20, 21, 22, 3], keys=range(100, 104))  # the last is in training, too
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "demo"
    run_training(composed("train", *SMALL_DEMO, f"output={output}"), output)
    run_evaluation(composed("evaluate", f"run={output}", *ONE_SETTING))
    return output
