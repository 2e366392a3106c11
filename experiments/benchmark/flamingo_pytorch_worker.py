"""flamingo-pytorch 0.1.2 as a worker of the benchmark: another architecture with the same shapes."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from experiments.benchmark.worker import Machine, run, train


class Patches(nn.Module):
    """CLIP's patch features, without the class token."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns patch features [images patches width]."""
        return self.clip(pixels).last_hidden_state[:, 1:]


class FlamingoPytorch:
    """flamingo-pytorch. Its language model has parallel blocks and one key head: fewer operations than OPT."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        from flamingo_pytorch import FlamingoPaLM

        language = json.loads((folder / "language" / "config.json").read_text())
        vision_fields = json.loads((folder / "vision" / "config.json").read_text())
        for newer in ("dtype", "model_type"):
            vision_fields.pop(newer, None)
        vision = CLIPVisionModel(CLIPVisionConfig(**vision_fields))
        heads = language["num_attention_heads"]
        self.model = FlamingoPaLM(
            num_tokens=language["vocab_size"],
            dim=language["hidden_size"],
            depth=language["num_hidden_layers"],
            heads=heads,
            dim_head=language["hidden_size"] // heads,
            cross_attn_every=1,
            perceiver_depth=6,
            img_encoder=Patches(vision),
        ).to(machine.device)
        self.machine = machine
        self.optimizer: Any = None

    def train_step(self, path: str, steps: int) -> list[float]:
        """Returns the seconds of each step."""
        inputs = self.machine.load(path)
        ids = inputs["input_ids"].clone()
        ids[inputs["labels"] == -100] = self.model.media_token_id
        images = inputs["pixel_values"].shape[1]
        resampler = self.model.perceiver_resampler
        if len(resampler.media_pos_emb) < images:  # the default is four images
            resampler.media_pos_emb = nn.Parameter(
                torch.randn(images, *resampler.media_pos_emb.shape[1:], device=ids.device)
            )

        def loss() -> Tensor:
            logits = self.model(ids, images=inputs["pixel_values"])
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())

        loss()  # the first call freezes the parameters that do not train
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer or torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.1)
        return train(self.model, loss, self.optimizer, steps, self.machine)


if __name__ == "__main__":
    run(FlamingoPytorch, "train_step")
