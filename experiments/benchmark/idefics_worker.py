"""IDEFICS of our transformers version as a worker of the benchmark: a LLaMA of the same shapes, random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from experiments.benchmark.worker import Machine, run, seconds_per_token, train


class Idefics:
    """IDEFICS. Its gated blocks are wider: heads of the language model's width, and a gated feed-forward."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.machine = machine
        language = json.loads((folder / "language" / "config.json").read_text())
        vision = json.loads((folder / "vision" / "config.json").read_text())
        config = IdeficsConfig(
            vocab_size=language["vocab_size"],
            hidden_size=language["hidden_size"],
            intermediate_size=language["ffn_dim"],
            num_hidden_layers=language["num_hidden_layers"],
            num_attention_heads=language["num_attention_heads"],
            cross_layer_interval=1,
            use_resampler=True,
            perceiver_config={"resampler_n_heads": 8, "resampler_head_dim": 64, "use_resampler": True},
            vision_config={
                "embed_dim": vision["hidden_size"],
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "intermediate_size": vision["intermediate_size"],
                "num_hidden_layers": vision["num_hidden_layers"],
                "num_attention_heads": vision["num_attention_heads"],
            },
        )
        self.model = IdeficsForVisionText2Text(config).to(machine.device)
        self.optimizer: Any = None

    def _inputs(self, path: str, rows: int) -> dict[str, torch.Tensor]:
        batch = self.machine.load(path)
        images = torch.arange(batch["pixel_values"].shape[1], device=self.machine.device)
        sees_image = batch["image_index"].unsqueeze(-1) == images
        inputs = {name: batch[name][:rows] for name in ("input_ids", "attention_mask", "pixel_values")}
        inputs["image_attention_mask"] = sees_image[:rows].long()
        return inputs

    def decode(self, path: str, tokens: int) -> float:
        """Returns seconds per token of greedy decoding after the first prompt of a batch."""
        inputs = self._inputs(path, 1)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.machine.dtype)
        return seconds_per_token(self.model.eval().to(self.machine.dtype), inputs, tokens)

    def train_step(self, path: str, steps: int) -> list[float]:
        """Returns the seconds of each step."""
        labels = self.machine.load(path)["labels"]
        inputs = self._inputs(path, len(labels))
        inputs["labels"] = labels
        self.model.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer or torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.1)
        return train(self.model, lambda: self.model(**inputs).loss, self.optimizer, steps, self.machine)


if __name__ == "__main__":
    run(Idefics, "decode", "train_step")
