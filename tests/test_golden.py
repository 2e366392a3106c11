"""A golden loss curve: twenty steps on the embedded world give the losses they gave before a refactoring."""

import json

import pytest

from experiments.train import run_training
from tests.experiments.test_configs import composed

#: Changed on purpose only, together with the reason in the commit that changes them.
GOLDEN = [
    20.33730,
    20.39349,
    20.35902,
    20.61725,
    21.09919,
    17.21587,
    16.54846,
    15.52072,
    14.89117,
    14.08490,
    13.48150,
    12.55905,
    12.41266,
    11.07690,
    10.05183,
    12.10211,
    11.02880,
    10.67145,
    11.37862,
    11.46270,
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
