"""A golden loss curve: twenty steps on the embedded world give the losses they gave before a refactoring."""

import json

import pytest

from experiments.train import run_training
from tests.experiments.test_configs import composed

#: Changed on purpose only, together with the reason in the commit that changes them.
GOLDEN = [
    31.79910,
    30.21056,
    34.57447,
    32.96669,
    30.29217,
    21.42303,
    19.04834,
    16.26350,
    15.51506,
    12.24178,
    13.99371,
    12.75915,
    11.34117,
    10.77634,
    11.49796,
    11.65306,
    9.81263,
    11.07888,
    10.64646,
    8.23702,
]


def test_twenty_steps_give_the_same_losses_as_ever(tmp_path):
    config = composed(
        "train",
        "experiment=demo",
        "data=world",
        *("data.captions.batch=2", "data.binding.batch=2", "data.questions.batch=2"),
        *("data.captions.least=2", "data.binding.least=6", "data.questions.least=2"),
        *("data.captions.most=3", "data.binding.most=7", "data.questions.most=3"),
        *("training.steps=20", "training.log_every=1", "training.sample_every=0", "optimizer.warmup=5"),
        "wandb.mode=disabled",
        f"output={tmp_path}",
    )
    run_training(config, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    # Other processors and numbers of threads add in another order.
    assert losses == pytest.approx(GOLDEN, rel=2e-3)
