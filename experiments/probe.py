"""What a frozen vision encoder knows of the synthetic benchmark: probes that read its features as a resampler would."""

import random
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from flamingo.model.config import VisionFeaturesConfig
from flamingo.model.vision import encode_patches
from flamingo.synthetic.drawing import draw
from flamingo.synthetic.scenes import COLOURS, COUNTS, SHAPES, SIZES, Scene, Split, random_scene

#: Questions about scenes, with the number of answers. The objects of a pair are asked for in reading order.
CLASSES = {
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "second shape": len(SHAPES),
    "second colour": len(COLOURS),
    "second size": len(SIZES),
    "relation": 4,
    "count": len(COUNTS),
}
_NONE = -100


def answers(scene: Scene) -> list[int]:
    """The answer to each question, -100 where it makes no sense.

    ``relation``: where the object whose colour comes first in the list of colours lies, seen from the
    other (left, right, above, below), so that colours have to be bound to places.
    """
    found = dict.fromkeys(CLASSES, _NONE)
    for prefix, kind in zip(("", "second "), scene.kinds, strict=False):
        found[f"{prefix}shape"] = SHAPES.index(kind.shape)
        found[f"{prefix}colour"] = COLOURS.index(kind.colour)
        found[f"{prefix}size"] = SIZES.index(kind.size)
    if scene.axis is None:
        found["count"] = COUNTS.index(scene.count)
    else:
        first, second = (COLOURS.index(kind.colour) for kind in scene.kinds)
        if first != second:
            found["relation"] = 2 * (scene.axis == "vertical") + (first > second)
    return list(found.values())


class Probe(nn.Module):
    """A few learned queries that attend to frozen features once, and a small perceptron on what they found."""

    def __init__(self, width: int, queries: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.read = nn.Sequential(nn.LayerNorm(queries * width), nn.Linear(queries * width, 512), nn.GELU())
        self.answer = nn.Linear(512, sum(CLASSES.values()))

    def forward(self, features: Float[Tensor, "b p v"]) -> list[Float[Tensor, "b classes"]]:
        """Logits of each question of ``CLASSES``."""
        context = self.norm(features)
        queries = repeat(self.queries, "q v -> b q v", b=len(features))
        found, _ = self.attention(queries, context, context, need_weights=False)
        logits = self.answer(self.read(rearrange(found, "b q v -> b (q v)")))
        return list(logits.split(list(CLASSES.values()), dim=-1))


def probe(
    encoder: Any,
    image_processor: Any,
    features: VisionFeaturesConfig,
    seed: int,
    scenes: int = 16_000,
    epochs: int = 12,
) -> dict[str, float]:
    """Accuracy of each probe on 2,000 held-out scenes, trained on ``scenes`` of the training split."""
    torch.manual_seed(seed)
    encoder.eval()
    train_x, train_y = _features(encoder, image_processor, features, seed, scenes, "training")
    test_x, test_y = _features(encoder, image_processor, features, seed + 1, 2_000, "evaluation")
    reader = Probe(train_x.shape[-1])
    batch, steps = 128, epochs * (scenes // 128)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="probing", unit="step"):
        rows = torch.randint(len(train_x), (batch,))
        loss = sum(
            F.cross_entropy(logits, train_y[rows, i], ignore_index=_NONE)
            for i, logits in enumerate(reader(train_x[rows]))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reader.eval()
    with torch.no_grad():
        said = torch.stack([logits.argmax(dim=-1) for logits in reader(test_x)], dim=1)
    asked = test_y != _NONE
    return {
        name: ((said == test_y) & asked)[:, i].sum().item() / asked[:, i].sum().item() for i, name in enumerate(CLASSES)
    }


@torch.no_grad()
def _features(
    encoder: Any, image_processor: Any, config: VisionFeaturesConfig, seed: int, count: int, split: Split
) -> tuple[Tensor, Tensor]:
    rng = random.Random(f"probe/{seed}/{split}")
    scenes = [random_scene(rng, split) for _ in range(count)]
    encoded = []
    for start in tqdm(range(0, count, 200), desc=f"features of {split} scenes", unit="batch"):
        pictures = [draw(scene) for scene in scenes[start : start + 200]]
        pixel_values = image_processor(pictures, return_tensors="pt")["pixel_values"]
        encoded.append(encode_patches(encoder, pixel_values, config))
    return torch.cat(encoded), torch.tensor([answers(scene) for scene in scenes])
