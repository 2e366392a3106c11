"""A golden loss curve: twenty steps on the embedded world give the losses they gave before a refactoring."""

import json

import pytest

from experiments.train import run_training
from tests.experiments.test_configs import composed

#: Changed on purpose only, together with the reason in the commit that changes them.
GOLDEN = [
    31.77102,
    30.11807,
    34.23244,
    33.05291,
    30.47778,
    21.72738,
    17.29241,
    15.54567,
    14.57807,
    11.96853,
    13.69635,
    12.55887,
    11.01391,
    10.37532,
    11.39481,
    11.28696,
    9.97663,
    10.87904,
    10.62085,
    8.04258,
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
