"""Parts: a few steps of pretraining a vision encoder and a language model, up to their scores."""

import json
import time
from pathlib import Path

from experiments.gpu_check.check_parts import JSON, Save, Settings
from experiments.gpu_check.check_report import table
from experiments.pretrain_language import PretrainLanguageConfig
from experiments.pretrain_vision import PretrainVisionConfig
from experiments.runs import run_language_pretraining, run_vision_pretraining
from flamingo.history import read_history
from flamingo.model import Fields
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.training import TrainingConfig
from flamingo.training.optim import AdamWConfig, MuonConfig

_STEPS = 20


def _training(small: bool, precision: str = "fp32") -> TrainingConfig:
    steps = 2 if small else _STEPS
    return TrainingConfig(steps=steps, log_every=steps // 2, save_every=steps, precision=precision)


def vision(settings: Settings, save: Save) -> None:
    """Pretrains the encoder of the package, or a smaller one with tiny sizes."""
    output = settings.run_folder("pretrain_vision")
    small = settings.small
    model: Fields = {"model_type": "resnet", "layer_type": "basic"}
    if small:
        model |= {"embedding_size": 16, "hidden_sizes": [16, 16], "depths": [1, 1]}
    else:
        model |= {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [2, 2, 2]}
    config = PretrainVisionConfig(
        output=str(output),
        device=settings.device,
        model=model,
        vision_features=VisionFeaturesConfig(class_token="none"),
        image_size=32 if small else 64,
        batch_size=2 if small else 64,
        group_size=4,
        embed_dim=16 if small else 128,
        num_workers=0 if small else 4,
        probed_scenes=128 if small else 4_000,
        optimizer=AdamWConfig(lr=3e-3, weight_decay=0.05, betas=(0.9, 0.98), warmup_steps=1),
        training=_training(small),
    )
    begin = time.monotonic()
    run_vision_pretraining.pretrain(config, output)
    _save(output, time.monotonic() - begin, config.training.steps, save)


def language(settings: Settings, save: Save) -> None:
    """Pretrains the language model of the package, or a smaller one with tiny sizes."""
    output = settings.run_folder("pretrain_language")
    small = settings.small
    heads = 1 if small else 6
    model: Fields = {
        "model_type": "qwen3",
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        "hidden_size": 32 * heads,
        "intermediate_size": 80 * heads,
        "num_hidden_layers": 1 if small else 5,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": 32,
    }
    config = PretrainLanguageConfig(
        output=str(output),
        device=settings.device,
        model=model,
        documents=100 if small else 2_000,
        vocab_size=640,
        seq_len=384,
        batch_size=2 if small else 6,
        scored_documents=3 if small else 100,
        optimizer=MuonConfig(lr=1e-2, weight_decay=0.5, betas=(0.9, 0.98), warmup_steps=1),
        training=_training(small, "bf16"),
    )
    begin = time.monotonic()
    run_language_pretraining.pretrain(config, output)
    _save(output, time.monotonic() - begin, config.training.steps, save)


def _save(output: Path, seconds: float, steps: int, save: Save) -> None:
    """Records the time, the losses of the log lines, and the scores."""
    losses = [record["loss"] for record in read_history(output / "history.jsonl")]
    scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    values: JSON = {"seconds": seconds, "losses": losses, "scores": scores}
    rows: list[tuple[object, ...]] = [(f"loss, step {steps // 2}", f"{losses[0]:.3f}")]
    rows.append((f"loss, step {steps}", f"{losses[-1]:.3f}"))
    for name, score in scores.items():
        rows.append((name, f"{score:.3f}"))
    save(
        values, f"{steps} steps and scores in {seconds:.0f} s, alongside other parts.\n\n" + table(("", "value"), rows)
    )
