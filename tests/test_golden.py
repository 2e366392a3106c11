"""A golden loss curve: twenty steps on the embedded world give the losses they gave before a refactoring."""

import json

import pytest

from experiments.train import run_training
from tests.experiments.test_configs import composed

#: Changed on purpose only, together with the reason in the commit that changes them.
GOLDEN = [
    30.10184,
    28.11137,
    33.37590,
    32.34641,
    28.54959,
    23.17482,
    20.28923,
    13.96132,
    16.23023,
    14.06715,
    13.80095,
    12.79248,
    11.70191,
    11.08466,
    11.27960,
    11.15391,
    11.07399,
    11.35719,
    10.65206,
    9.60062,
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
