"""Parts on captioned images of the disk: training from features, evaluation with RICES, training by reward."""

import time
from pathlib import Path

from experiments.evaluate import EvaluateConfig
from experiments.gpu_check.check_parts import JSON, Save, Settings
from experiments.gpu_check.check_report import table
from experiments.gpu_check.demo import score_values, scores_table, small_model, small_optimizer
from experiments.gpu_check.drawn_photographs import draw_photographs
from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from experiments.schema import DataConfig, DataSetConfig
from experiments.trackers import NONE
from experiments.train import TrainConfig
from flamingo.data.builders import InterleavedConfig
from flamingo.evaluation.tasks import CaptioningConfig
from flamingo.history import read_history
from flamingo.inference import FeaturesConfig
from flamingo.training import TrainingConfig
from flamingo.training.losses import NextTokenConfig, SelfCriticalConfig
from flamingo.training.optim import AdamWConfig

_STEPS = 20


def captioning(settings: Settings, save: Save) -> None:
    """Trains from features on similar images and packed rows, then captions with random and similar images."""
    output = settings.run_folder("captioning")
    folder = settings.run_folder("photographs")
    small = settings.small
    draw_photographs(folder / "train", 8 if small else 256, 96, seed=0)
    draw_photographs(folder / "dev", 3 if small else 32, 96, seed=1)
    pairs = InterleavedConfig(
        min_images=1, max_images=1, batch_size=2 if small else 16, captions_per_image=3, num_crops=2, pack_to=128
    )
    images = 3 if small else 5
    similar = InterleavedConfig(min_images=images, max_images=images, batch_size=2 if small else 8, similar_prob=0.5)
    documents = {
        "pairs": DataSetConfig(pairs, NextTokenConfig()),
        "interleaved": DataSetConfig(similar, NextTokenConfig()),
    }
    features = output / "features"
    begin = time.monotonic()
    run_training(
        _config(settings, output, DataConfig(root=str(folder / "train"), documents=documents), features), output
    )
    training_seconds = time.monotonic() - begin
    evaluation = EvaluateConfig(
        run=str(output),
        device=settings.device,
        demonstrations=["random", "rices"],
        shots=[2] if small else [0, 4],
        text_only=False,
        num_beams=[2] if small else [3],
        max_new_tokens=5 if small else 20,
        task=CaptioningConfig(
            kind="captioning",
            name="photographs",
            query=str(folder / "dev"),
            support=str(folder / "train"),
            metrics=["CIDEr"],
        ),
    )
    begin = time.monotonic()
    run_evaluation(evaluation)
    seconds = time.monotonic() - begin
    values = _history(output) | {"training_seconds": training_seconds, "evaluation_seconds": seconds}
    values["scores"] = score_values(output)
    text = f"Training in {training_seconds:.0f} s, evaluation in {seconds:.0f} s, alongside other parts.\n\n"
    save(values, text + _losses(values) + "\n" + scores_table(values["scores"]))


def reward(settings: Settings, save: Save) -> None:
    """Trains by the CIDEr of the captions that beam search finds."""
    output = settings.run_folder("reward")
    folder = settings.run_folder("photographs_of_reward")
    small = settings.small
    draw_photographs(folder, 6 if small else 64, 96, seed=0)
    loss = SelfCriticalConfig(num_captions=2 if small else 5, max_new_tokens=5 if small else 20)
    documents = InterleavedConfig(min_images=2, max_images=2, batch_size=2 if small else 8, captions_per_image=3)
    data = DataConfig(root=str(folder), documents={"pairs": DataSetConfig(documents, loss)})
    begin = time.monotonic()
    run_training(_config(settings, output, data, None), output)
    seconds = time.monotonic() - begin
    values = _history(output) | {"training_seconds": seconds}
    save(
        values,
        f"Training in {seconds:.0f} s, alongside other parts; a loss is minus a mean reward.\n\n" + _losses(values),
    )


def _config(settings: Settings, output: Path, data: DataConfig, features: Path | None) -> TrainConfig:
    steps = 2 if settings.small else _STEPS
    return TrainConfig(
        output=str(output),
        device=settings.device,
        include_backbones=True,
        model=small_model(),
        data=data,
        features=FeaturesConfig(folder=None if features is None else str(features)),
        optimizer=AdamWConfig(lr=1e-3, gate_lr=3e-2, betas=small_optimizer().betas, warmup_steps=1),
        training=TrainingConfig(steps=steps, log_every=steps // 2, save_every=steps, precision="bf16"),
        tracker=NONE,
    )


def _history(output: Path) -> JSON:
    history = read_history(output / "history.jsonl")
    return {"steps": [record["step"] for record in history], "losses": [record["loss"] for record in history]}


def _losses(values: JSON) -> str:
    rows = [(step, f"{loss:.3f}") for step, loss in zip(values["steps"], values["losses"], strict=True)]
    return table(("step", "loss"), rows)
