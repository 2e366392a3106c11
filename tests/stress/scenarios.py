"""The small runs to disturb, which give the same bytes each time."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import tiny
from tests.experiments.conftest import shard
from tests.helpers.histories import reproducible_history


@dataclass(frozen=True)
class Inputs:
    """Photographs in shards, tiny backbones, and a trained run to evaluate."""

    shards: Path
    backbones: Path
    trained: Path


@dataclass(frozen=True)
class Scenario:
    """A command whose output is compared, file by file.

    Attributes:
        name: How the table calls it.
        arguments: From the output folder to the command.
        results: From the output folder to a digest of each result.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, str]]


def make_inputs(folder: Path) -> Inputs:
    """Write the inputs of all scenarios, but for the run to evaluate, which :func:`scenarios`' training leaves."""
    shards, backbones = folder / "shards", folder / "backbones"
    shards.mkdir(parents=True)
    shard(shards / "train-000000.tar", range(8))
    shard(shards / "train-000001.tar", range(8, 14))
    shard(shards / "dev-000000.tar", range(20, 24))
    tiny.save_backbones(backbones)
    return Inputs(shards, backbones, folder / "trained")


def scenarios(inputs: Inputs) -> dict[str, Scenario]:
    """All scenarios by name: training (with and without workers), features, evaluation, a sweep, pretraining."""

    def training(output: Path, *overrides: str) -> list[str]:
        return [
            "train",
            "experiment=flickr8k",
            "debug=quick",
            "tracker=none",
            f"output={output}",
            f"data.root={inputs.shards}",
            f"model.vision={inputs.backbones / 'mobilenet_v2'}",
            f"model.language={inputs.backbones / 'gpt2'}",
            "model.image_size=null",
            "model.connector.num_heads=2",
            "data.documents.pairs.batch_size=2",
            "data.documents.pairs.captions_per_image=2",
            "data.documents.interleaved.batch_size=2",
            "data.documents.interleaved.min_images=3",
            "data.documents.interleaved.max_images=3",
            "training.steps=8",
            "training.sample_every=0",
            *overrides,
        ]

    def features(output: Path) -> list[str]:
        views = ("data.documents.pairs.num_crops=16", "data.documents.interleaved.num_crops=16")
        return training(output, "training.steps=3", *views)

    def evaluation(output: Path) -> list[str]:
        return [
            "evaluate",
            "task=flickr8k",
            f"checkpoint={inputs.trained / 'checkpoint'}",
            f"output={output}",
            f"task.support={inputs.shards}/train-*.tar",
            f"task.query={inputs.shards}/dev-*.tar",
            "max_new_tokens=4",
            "task.metrics=[CIDEr,BLEU-1]",
            "shots=[0,2]",
            "num_beams=[2]",
            "control_shots=null",
            "batch_size=4",
        ]

    def sweep(output: Path) -> list[str]:
        train, *overrides = training(output, "training.steps=4")
        return [train, "-m", *overrides, "seed=0,1"]

    def pretraining(output: Path) -> list[str]:
        return [
            "pretrain_language",
            "text=captions",
            f"texts=[{inputs.shards}/train-*.tar]",
            f"output={output}",
            "model.hidden_size=32",
            "model.intermediate_size=48",
            "model.num_hidden_layers=2",
            "model.num_attention_heads=2",
            "model.num_key_value_heads=2",
            "model.head_dim=16",
            "vocab_size=300",
            "seq_len=32",
            "training.steps=6",
            "training.save_every=2",
            "optimizer.warmup_steps=1",
            "batch_size=2",
        ]

    found = [
        Scenario("training", training, trained),
        Scenario("training with workers", lambda output: training(output, "num_workers=1"), trained),
        Scenario("features", features, lambda output: trained(output) | stored(output / "features")),
        Scenario("evaluation", evaluation, evaluated),
        Scenario("sweep", sweep, swept),
        Scenario("pretraining", pretraining, pretrained),
    ]
    return {scenario.name: scenario for scenario in found}


# ------------------------------------------------------------------------------- results


def trained(output: Path) -> dict[str, str]:
    """Weights and history of a training run."""
    return {"weights": _digest(output / "checkpoint" / "model.safetensors"), "history": _history(output)}


def pretrained(output: Path) -> dict[str, str]:
    """Weights and history of a pretraining run."""
    return {"weights": _digest(output / "model" / "model.safetensors"), "history": _history(output)}


def stored(folder: Path) -> dict[str, str]:
    """A folder of features, file by file."""
    return {name: _digest(folder / name) for name in ("keys.txt", "patches.bin", "pooled.bin")}


def rows(folder: Path) -> dict[str, str]:
    """A folder of features by picture, whatever the order of its rows: the digests of their contents."""
    found = {}
    for line in (folder / "keys.txt").read_text().splitlines():
        picture, *contents = line.split()
        found[picture] = " ".join(contents)
    return found


def evaluated(output: Path) -> dict[str, str]:
    """Predictions and scores of an evaluation."""
    return {name: _digest(output / name) for name in ("predictions.jsonl", "scores.json")}


def swept(output: Path) -> dict[str, str]:
    """Weights and history of each run of a sweep."""
    found = {}
    for config in sorted(output.glob("*/config.yaml")):
        for name, digest in trained(config.parent).items():
            found[f"{config.parent.name} {name}"] = digest
    return found


def _history(output: Path) -> str:
    return hashlib.sha256(json.dumps(reproducible_history(output)).encode()).hexdigest()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
