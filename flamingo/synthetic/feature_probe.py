"""Measures the content of image features: a small attention probe predicts attributes of the scene from them."""

import random
from collections.abc import Callable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from PIL import Image as PILImage
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from flamingo.synthetic.drawing import draw
from flamingo.synthetic.scenes import COLOURS, COUNTS, SHAPES, SIZES, Scene, Split, random_scene
from flamingo.utils.devices import to_device

#: Attributes of scenes, with the number of classes of each. The objects of a pair are in reading order.
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
#: The label of an attribute that a scene does not have.
_NONE = -100
_BATCH_SIZE = 128
#: The ratio of training scenes to test scenes.
_TRAINING_TO_TEST = 8
#: Part of the seed: another text draws other scenes.
_STREAM = "probe"
#: The number of scenes that are drawn and encoded together.
_ENCODED_AT_ONCE = 200

#: Returns the features of images by a frozen encoder.
Encode = Callable[[list[PILImage.Image]], Float[Tensor, "b p v"]]


def scene_labels(scene: Scene) -> list[int]:
    """Returns the class of each attribute in ``CLASSES``; -100 if the scene does not have the attribute.

    ``relation`` is the position of the object whose colour comes first in ``COLOURS`` relative to the other object
    (left, right, above, below). To predict it, the features must bind colours to positions.
    """
    labels = dict.fromkeys(CLASSES, _NONE)
    prefixes = ("", "second ")
    for prefix, kind in zip(prefixes, scene.kinds, strict=False):
        labels[f"{prefix}shape"] = SHAPES.index(kind.shape)
        labels[f"{prefix}colour"] = COLOURS.index(kind.colour)
        labels[f"{prefix}size"] = SIZES.index(kind.size)
    if scene.axis is None:
        labels["count"] = COUNTS.index(scene.count)
        return list(labels.values())
    first, second = (COLOURS.index(kind.colour) for kind in scene.kinds)
    if first != second:
        first_class = 0 if scene.axis == "horizontal" else 2
        labels["relation"] = first_class if first < second else first_class + 1
    return list(labels.values())


class FeatureProbe(nn.Module):
    """Learned queries that attend to frozen features once, and a two-layer perceptron on the result."""

    def __init__(self, width: int, num_queries: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(num_queries, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.hidden = nn.Sequential(
            nn.LayerNorm(num_queries * width),
            nn.Linear(num_queries * width, 512),
            nn.GELU(),
        )
        self.classifier = nn.Linear(512, sum(CLASSES.values()))

    def forward(self, features: Float[Tensor, "b p v"]) -> list[Float[Tensor, "b classes"]]:
        """Returns the logits of each attribute in ``CLASSES``."""
        context = self.norm(features)
        queries = repeat(self.queries, "q v -> b q v", b=len(features))
        pooled, _ = self.attention(queries, context, context, need_weights=False)
        pooled = rearrange(pooled, "b q v -> b (q v)")
        logits = self.classifier(self.hidden(pooled))
        num_classes = list(CLASSES.values())
        return list(logits.split(num_classes, dim=-1))


def probe_features(encode: Encode, seed: int, num_scenes: int, epochs: int = 12) -> dict[str, float]:
    """Returns the accuracy of each attribute on scenes of the evaluation split, an eighth of ``num_scenes``.

    Args:
        encode: The frozen encoder. The probe trains on the device of its features.
        seed: The seed of the scenes, and of the probe's weights and batches.
        num_scenes: The number of scenes of the training split that the probe is trained on.
        epochs: The number of epochs over these scenes.
    """
    torch.manual_seed(seed)
    features, labels = _encode_scenes(encode, seed, num_scenes, "training")
    test_features, test_labels = _encode_scenes(encode, seed + 1, num_scenes // _TRAINING_TO_TEST, "evaluation")
    probe = FeatureProbe(features.shape[-1]).to(features.device)
    steps = epochs * (num_scenes // _BATCH_SIZE)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="probing", unit="step"):
        rows = to_device(torch.randint(len(features), (_BATCH_SIZE,)), features.device)
        loss = _loss(probe(features[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    probe.eval()
    with torch.no_grad():
        logits = probe(test_features)
    accuracies = {}
    for name, attribute_logits, attribute_labels in zip(CLASSES, logits, test_labels.T, strict=True):
        accuracies[name] = _accuracy(attribute_logits, attribute_labels)
    return accuracies


def _loss(logits: list[Float[Tensor, "b classes"]], labels: Int[Tensor, "b attributes"]) -> Float[Tensor, ""]:
    total = torch.zeros((), device=labels.device)
    for column, attribute_logits in enumerate(logits):
        total = total + F.cross_entropy(attribute_logits, labels[:, column], ignore_index=_NONE)
    return total


def _accuracy(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """Returns the share of right predictions among the scenes that have the attribute."""
    has_label = labels != _NONE
    is_right = logits.argmax(dim=-1) == labels
    num_right = (is_right & has_label).sum().item()
    return num_right / has_label.sum().item()


@torch.no_grad()
def _encode_scenes(
    encode: Encode,
    seed: int,
    count: int,
    split: Split,
) -> tuple[Float[Tensor, "n p v"], Int[Tensor, "n attributes"]]:
    rng = random.Random(f"{_STREAM}/{seed}/{split}")
    scenes = [random_scene(rng, split) for _ in range(count)]
    parts = []
    starts = range(0, count, _ENCODED_AT_ONCE)
    for start in tqdm(starts, desc=f"features of {split} scenes", unit="batch"):
        images = [draw(scene) for scene in scenes[start : start + _ENCODED_AT_ONCE]]
        parts.append(encode(images))
    features = torch.cat(parts)
    labels = torch.tensor([scene_labels(scene) for scene in scenes])
    return features, to_device(labels, features.device)
