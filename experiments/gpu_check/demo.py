"""Part: the demo's training and evaluation, with time and scores."""

import os
import time
from dataclasses import replace
from pathlib import Path

from experiments.evaluate import EvaluateConfig
from experiments.gpu_check.check_parts import JSON, Save, Settings
from experiments.gpu_check.check_report import table
from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from experiments.schema import DataConfig, DataSetConfig, ModelConfig
from experiments.trackers import NONE
from experiments.train import TrainConfig
from flamingo.model.connectors import PerceiverConfig
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.results import read_scores
from flamingo.synthetic import SyntheticDocumentsConfig, SyntheticTaskConfig
from flamingo.training import TrainingConfig
from flamingo.training.losses import NextTokenConfig
from flamingo.training.optim import AdamWConfig


def small_model() -> ModelConfig:
    """Returns the config of the demo's model, between the backbones of the package."""
    return ModelConfig(
        vision_features=VisionFeaturesConfig(class_token="auto"),
        connector=PerceiverConfig(depth=1, num_latents=16, num_heads=4, head_dim=32, qk_norm=True),
        fusion=CrossAttentionConfig(every=2, num_heads=6, head_dim=32, mlp_ratio=2, qk_norm=True),
    )


def small_optimizer() -> AdamWConfig:
    """Returns the optimizer of the demo."""
    return AdamWConfig(lr=1e-3, gate_lr=3e-2, betas=(0.9, 0.98), warmup_steps=50, schedule="cosine")


def training_config(output: Path) -> TrainConfig:
    """Returns what ``python -m experiments.train experiment=demo`` trains, without a tracker."""
    documents = SyntheticDocumentsConfig(kind="synthetic_captions", min_images=8, max_images=9, batch_size=4)
    return TrainConfig(
        output=str(output),
        include_backbones=True,
        model=small_model(),
        data=DataConfig(documents={"captions": DataSetConfig(documents, NextTokenConfig())}),
        optimizer=small_optimizer(),
        training=TrainingConfig(steps=1200, save_every=200, sample_every=600),
        tracker=NONE,
    )


def evaluation_config(run: Path) -> EvaluateConfig:
    """Returns what ``python -m experiments.evaluate run=RUN`` evaluates."""
    return EvaluateConfig(
        run=str(run),
        controls=[
            "blind",
            "shuffled_images",
            "shuffled_captions",
            "copied_caption",
            "consensus_caption",
            "described",
        ],
        task=SyntheticTaskConfig(kind="synthetic_captions", num_queries=200),
    )


def run(settings: Settings, save: Save) -> None:
    """Trains and evaluates the demo. With tiny sizes it takes four steps and four queries."""
    output = settings.run_folder("demo")
    training, evaluation = training_config(output), evaluation_config(output)
    training.device = evaluation.device = settings.device
    if settings.small:
        training.training = TrainingConfig(steps=4, log_every=2, save_every=4)
        training.optimizer = replace(small_optimizer(), warmup_steps=2)
        documents = SyntheticDocumentsConfig(kind="synthetic_captions", min_images=2, max_images=3, batch_size=2)
        training.data = DataConfig(documents={"captions": DataSetConfig(documents, NextTokenConfig())})
        evaluation.shots, evaluation.controls = [2], []
        evaluation.task = SyntheticTaskConfig(kind="synthetic_captions", num_queries=4)
    else:
        # These processes draw images. Their number changes no result.
        training.num_workers = min(8, (os.cpu_count() or 1) // 2)
    begin = time.monotonic()
    run_training(training, output)
    values: JSON = {"training_seconds": time.monotonic() - begin, "steps": training.training.steps}
    save(values, _text(values))
    begin = time.monotonic()
    run_evaluation(evaluation)
    values["evaluation_seconds"] = time.monotonic() - begin
    values["scores"] = score_values(output)
    save(values, _text(values))


def _text(values: JSON) -> str:
    text = f"{values['steps']} steps in {values['training_seconds']:.0f} s"
    if "scores" not in values:
        return text + ".\n"
    return f"{text}, evaluation in {values['evaluation_seconds']:.0f} s, alongside other parts.\n\n" + scores_table(
        values["scores"]
    )


def score_values(run: Path) -> list[JSON]:
    """Returns the scores of an evaluated run."""
    values = []
    for score in read_scores(run / "scores.json"):
        setting = score.setting
        names = [f"{setting.shots} shots", setting.demonstrations, setting.control_name, setting.decoding]
        values.append({"setting": ", ".join(filter(None, names)), "metric": score.metric, "value": score.value})
    return values


def scores_table(values: list[JSON]) -> str:
    """Returns a table of :func:`score_values`."""
    rows = [(score["setting"], score["metric"], f"{score['value']:.3f}") for score in values]
    return table(("setting", "metric", "value"), rows)
