"""The golden cases: losses of twenty steps, captions and scores of a trained model, converted logits."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from flamingo import FlamingoForConditionalGeneration
from flamingo.history import History
from flamingo.interop import flamingo_mini, idefics, openflamingo
from tests import tiny
from tests.golden.scenes import write_scenes
from tests.golden.values import Values
from tests.helpers import flamingo_mini_checkpoint, idefics_checkpoint
from tests.helpers.configs import composed
from tests.interop import peers

#: A case writes below the folder and returns its values.
Case = Callable[[Path], Values]

TWENTY_STEPS = (
    *("training.steps=20", "training.log_every=1", "training.sample_every=0", "training.validate_every=0"),
    "optimizer.warmup_steps=5",
)
#: Per kind of documents of the synthetic benchmark: batch size, fewest and most images.
KINDS = {"captions": (2, 2, 3), "binding": (2, 6, 7), "questions": (2, 2, 3)}
PRECISIONS = ("fp32", "bf16")
TRAINED_STEPS = 200


def compute(names: Sequence[str]) -> dict[str, Values]:
    """Returns the values of these cases."""
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"golden: {name}", flush=True)
            torch.manual_seed(0)
            values[name] = CASES[name](Path(folder))
    return values


# ------------------------------------------------------------------------------- trainings


def _losses(folder: Path, name: str, overrides: Sequence[str]) -> list[float]:
    """Returns the loss (nats) of each step of a training."""
    output = folder / name
    config = composed("train", *overrides, "tracker=none", f"output={output}")
    run_training(config, output)
    records = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records]


def _synthetic(kinds: Sequence[str], precision: str) -> list[str]:
    overrides = ["experiment=demo", "data=synthetic", f"training.precision={precision}", *TWENTY_STEPS]
    for kind in KINDS:
        if kind not in kinds:
            overrides.append(f"~data.documents.{kind}")
            continue
        batch, least, most = KINDS[kind]
        documents = f"data.documents.{kind}"
        overrides += [
            f"{documents}.batch_size={batch}",
            f"{documents}.min_images={least}",
            f"{documents}.max_images={most}",
        ]
    return overrides


def synthetic_losses(folder: Path, name: str, kinds: Sequence[str]) -> Values:
    return {precision: _losses(folder, f"{name}-{precision}", _synthetic(kinds, precision)) for precision in PRECISIONS}


def _captioned_images(folder: Path) -> list[str]:
    """Returns the overrides of a training on captioned images that are written here."""
    listing = folder / "scenes" / "train.jsonl"
    if not listing.exists():
        write_scenes(listing.parent, "train", 24)
    return [
        "experiment=demo",
        "data=images",
        f"data.root={listing}",
        f"features.folder={folder / 'features'}",
        "data.documents.pairs.batch_size=4",
        "data.documents.pairs.captions_per_image=2",
        "data.documents.pairs.num_crops=2",
        "data.documents.interleaved.min_images=3",
        "data.documents.interleaved.max_images=3",
        "data.documents.interleaved.batch_size=2",
        *TWENTY_STEPS,
    ]


def packed_losses(folder: Path) -> Values:
    """Pairs that share rows, and documents of similar images, both from features."""
    overrides = [*_captioned_images(folder), "data.documents.pairs.pack_to=64"]
    return {
        precision: _losses(folder, f"packed-{precision}", [*overrides, f"training.precision={precision}"])
        for precision in PRECISIONS
    }


def reward_losses(folder: Path) -> Values:
    """By CIDEr, from the trained model, so that some samples are better than others."""
    overrides = [
        *_captioned_images(folder),
        f"model.init_from={_trained(folder) / 'checkpoint'}",
        "loss@data.documents.pairs.loss=self_critical",
        "loss@data.documents.interleaved.loss=self_critical",
        "data.documents.interleaved.captions_per_image=2",
    ]
    losses = _losses(folder, "reward", overrides)
    assert any(loss != 0 for loss in losses), "no sample is better than another: the losses prove nothing"
    return {"fp32": losses}


def resumed_losses(folder: Path) -> Values:
    """A training that fails at step 12 and continues from its state at step 10."""
    overrides = [*_synthetic(list(KINDS), "fp32"), "training.save_every=5"]

    append = History.append

    def fail(history: History, record: dict[str, Any]) -> None:
        if record["step"] == 12:
            raise _StopError
        append(history, record)

    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(_StopError):
        monkeypatch.setattr(History, "append", fail)
        _losses(folder, "resumed", overrides)
    assert not (folder / "resumed" / "checkpoint").exists()
    return {"fp32": _losses(folder, "resumed", overrides)}


class _StopError(Exception):
    pass


# ------------------------------------------------------------------- captions and scores


def _trained(folder: Path) -> Path:
    """Returns the folder of a run of 200 steps with opened gates; it is trained once."""
    output = folder / "trained"
    if not (output / "checkpoint").exists():
        overrides = ["experiment=demo", f"training.steps={TRAINED_STEPS}", "training.sample_every=0"]
        overrides.append("optimizer.warmup_steps=50")
        run_training(composed("train", *overrides, "tracker=none", f"output={output}"), output)
        model = FlamingoForConditionalGeneration.from_pretrained(output / "checkpoint")
        gates = [gate.abs().max().item() for name, gate in model.named_parameters() if name.endswith("_gate")]
        assert max(gates) > 0.5, f"the gates are still closed: {gates}"
    return output


def generated(folder: Path) -> Values:
    """Greedy and beam outputs of 20 prompts with 4 demonstrations, and the scores of all settings and controls."""
    run = _trained(folder)
    overrides = [
        f"run={run}",
        f"output={folder / 'evaluated'}",
        "task.num_queries=20",
        "shots=[0,4]",
        "num_beams=[1,3]",
        "controls=[blind,shuffled_images,shuffled_captions,copied_caption]",
        "control_shots=[4]",
        "num_orders=2",
        "batch_size=8",
    ]
    run_evaluation(composed("evaluate", *overrides))
    return _scores(folder / "evaluated") | _outputs(folder / "evaluated")


def _outputs(folder: Path) -> Values:
    outputs: Values = {}
    for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["shots"] == 4 and row["order"] == 0 and row["control"] in (None, "blind"):
            outputs.setdefault(f"outputs {row['decoding']} {row['control']}", []).append(row["output"])
    seeing, blind = outputs["outputs greedy None"], outputs["outputs greedy blind"]
    changed = sum(one != other for one, other in zip(seeing, blind, strict=True))
    assert changed >= 15, f"only {changed} of {len(seeing)} outputs depend on the pictures"
    return outputs


def _scores(folder: Path) -> Values:
    scores: Values = {}
    for row in json.loads((folder / "scores.json").read_text(encoding="utf-8")):
        setting = [row["shots"], row["demonstrations"], row["control"], row["decoding"], row["metric"]]
        scores[" ".join(map(str, ["score", *setting]))] = [row["value"], *row["ci95"]]
    return scores


# ------------------------------------------------------------------- converted checkpoints


def _backbones(folder: Path) -> Path:
    if not (folder / "backbones").exists():
        tiny.save_backbones(folder / "backbones")
        torch.manual_seed(0)  # the case draws the same whether an earlier one has saved them
    return folder / "backbones"


@torch.no_grad()
def _logits(model: FlamingoForConditionalGeneration, new_token_ids: list[int]) -> list[float]:
    torch.manual_seed(3)
    inputs = peers.document(new_token_ids, "left")
    logits = model.eval()(**inputs).logits
    return logits[:, -1].flatten().tolist()


def openflamingo_logits(folder: Path) -> Values:
    backbones = _backbones(folder)
    vision, language = backbones / "clip_vision_model", backbones / "mpt"
    with pytest.MonkeyPatch.context() as monkeypatch:
        original = peers.open_flamingo(vision, language, 2, monkeypatch)
    checkpoint = folder / "openflamingo.pt"
    torch.save(peers.state_dict(original), checkpoint)
    model, processor, _ = openflamingo.convert(checkpoint, str(vision), str(language))
    return {"logits": _logits(model, processor.new_token_ids)}


def flamingo_mini_logits(folder: Path) -> Values:
    backbones = _backbones(folder)
    _, state = flamingo_mini_checkpoint.make("gpt2", backbones, tied=True)
    checkpoint = folder / "flamingo_mini"
    checkpoint.mkdir()
    torch.save(state, checkpoint / "pytorch_model.bin")
    (checkpoint / "config.json").write_text(json.dumps(flamingo_mini_checkpoint.SETTINGS))
    model, _, _ = flamingo_mini.convert(checkpoint, str(backbones / "clip_vision_model"), str(backbones / "gpt2"))
    # Token 40 of the vocabulary marks an image: flamingo-mini has no token for it.
    return {"logits": _logits(model, [tiny.VOCABULARY, 40])}


def idefics_logits(folder: Path) -> Values:
    original = idefics_checkpoint.make()
    model, _, _ = idefics.convert(idefics_checkpoint.save(original, folder / "idefics"))
    return {"logits": _logits(model, [idefics_checkpoint.VOCABULARY, idefics_checkpoint.VOCABULARY + 1])}


CASES: dict[str, Case] = {
    "captions": partial(synthetic_losses, name="captions", kinds=["captions"]),
    "binding": partial(synthetic_losses, name="binding", kinds=["binding"]),
    "questions": partial(synthetic_losses, name="questions", kinds=["questions"]),
    "mixed": partial(synthetic_losses, name="mixed", kinds=list(KINDS)),
    "packed": packed_losses,
    "reward": reward_losses,
    "resumed": resumed_losses,
    "generated": generated,
    "openflamingo": openflamingo_logits,
    "flamingo_mini": flamingo_mini_logits,
    "idefics": idefics_logits,
}
