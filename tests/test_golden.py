"""A golden loss curve: twenty steps on the embedded world give the losses they gave before a refactoring."""

import json

import pytest

from experiments.train import run_training
from tests.experiments.test_configs import composed

#: Changed on purpose only, together with the reason in the commit that changes them.
GOLDEN = [
    16.43586,
    17.34051,
    16.53025,
    17.45394,
    15.92398,
    14.29567,
    13.10473,
    9.63611,
    10.99864,
    10.04284,
    10.22681,
    9.25610,
    9.63259,
    8.89235,
    8.49866,
    9.12122,
    8.72754,
    8.72844,
    8.77516,
    8.90620,
]


def test_twenty_steps_give_the_same_losses_as_ever(tmp_path):
    config = composed(
        "train",
        "experiment=demo",
        "data=world",
        *("data.captions.batch=2", "data.binding.batch=2", "data.questions.batch=2"),
        *("data.captions.least=2", "data.binding.least=3", "data.questions.least=2"),
        *("data.captions.most=3", "data.binding.most=5", "data.questions.most=3"),
        *("training.steps=20", "training.log_every=1", "training.sample_every=0", "optimizer.warmup=5"),
        "wandb.mode=disabled",
        f"output={tmp_path}",
    )
    run_training(config, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    # Other processors and numbers of threads add in another order.
    assert losses == pytest.approx(GOLDEN, rel=2e-3)
