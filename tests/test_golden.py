"""A golden loss curve: twenty steps on the embedded world give the losses they gave before a refactoring."""

import json

import pytest

from experiments.train import run_training
from tests.experiments.test_configs import composed

#: Changed on purpose only, together with the reason in the commit that changes them.
GOLDEN = [
    32.71738,
    34.94579,
    34.27398,
    31.36412,
    27.02898,
    24.21807,
    16.10087,
    16.33608,
    17.22281,
    15.49836,
    14.51711,
    13.63114,
    12.41173,
    12.08436,
    11.06010,
    10.79175,
    10.55088,
    11.29148,
    11.49879,
    10.01323,
]


def test_twenty_steps_give_the_same_losses_as_ever(tmp_path):
    config = composed(
        "train",
        "experiment=demo",
        "data=world",
        *("data.documents.captions.batch=2", "data.documents.binding.batch=2", "data.documents.questions.batch=2"),
        *("data.documents.captions.least=2", "data.documents.binding.least=6", "data.documents.questions.least=2"),
        *("data.documents.captions.most=3", "data.documents.binding.most=7", "data.documents.questions.most=3"),
        *("training.steps=20", "training.log_every=1", "training.sample_every=0", "optimizer.warmup=5"),
        "wandb.mode=disabled",
        f"output={tmp_path}",
    )
    run_training(config, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    # Other processors and numbers of threads add in another order.
    assert losses == pytest.approx(GOLDEN, rel=2e-3)
