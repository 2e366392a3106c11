"""The inputs of all implementations: backbones and trained parts with random weights, images, prompts and batches."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import CLIPVisionModel, OPTForCausalLM

from experiments.benchmark.shapes import Shape
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.interop import openflamingo


@dataclass
class Sizes:
    """Sizes of models and inputs, by default those of OPT-125M with CLIP ViT-B/32. The command has all as arguments."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocab_size: int = 50272
    vision_width: int = 768
    vision_layers: int = 12
    image_size: int = 224
    patch: int = 32
    every: int = 1
    shots: list[int] = field(default_factory=lambda: [8, 32])
    support: int = 64
    queries: int = 64
    text: int = 24
    beams: int = 3
    new: int = 20
    batch: int = 16
    train_batch: int = 2
    train_images: int = 8
    train_tokens: int = 256

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        return self.shape().patches

    def shape(self) -> Shape:
        """Returns the shape of the models. The trained parts have OpenFlamingo's sizes."""
        return Shape(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            vocab_size=self.vocab_size,
            vision_width=self.vision_width,
            vision_layers=self.vision_layers,
            image_size=self.image_size,
            patch=self.patch,
            every=self.every,
            num_heads=openflamingo.CROSS_ATTENTION["num_heads"],
            head_dim=openflamingo.CROSS_ATTENTION["head_dim"],
            resampler_depth=openflamingo.PERCEIVER["depth"],
            num_latents=openflamingo.PERCEIVER["num_latents"],
        )


#: "3b" is Flamingo-3B: a language model of 1.3 billion parameters, and CLIP ViT-L/14.
SHAPES = {
    "125m": Sizes(),
    "3b": Sizes(width=2048, layers=24, heads=32, vision_width=1024, vision_layers=24, patch=14, train_batch=8),
}


@dataclass
class Prompt:
    """A prompt: the numbers of its images, and the texts of its demonstrations."""

    demonstrations: list[tuple[int, str]]
    query: int


def build(folder: Path, sizes: Sizes) -> None:
    """Saves backbones, our checkpoint, the same weights as OpenFlamingo's checkpoint, and images."""
    torch.manual_seed(0)
    save_language(folder / "language", sizes.shape())
    save_vision(folder / "vision", sizes.shape())
    _save_flamingo(folder, sizes)
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(sizes.support + sizes.queries):
        # Enlarged noise has the size and smoothness of a photograph.
        noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        PILImage.fromarray(noise).resize((500, 375)).save(image_path(folder, number), quality=90)


def save_language(folder: Path, shape: Shape) -> None:
    """Saves a decoder with random weights, and its tokenizer."""
    OPTForCausalLM(shape.language_config()).save_pretrained(folder)
    shape.tokenizer().save_pretrained(folder)


def save_vision(folder: Path, shape: Shape) -> None:
    """Saves an encoder with random weights, and its image processor."""
    CLIPVisionModel(shape.vision_config()).save_pretrained(folder)
    shape.image_processor().save_pretrained(folder)


def _save_flamingo(folder: Path, sizes: Sizes) -> None:
    """Saves our checkpoint, and OpenFlamingo's with the same weights."""
    processor = FlamingoProcessor.from_vision_text_pretrained(folder / "vision", folder / "language")
    blocks = {"every": sizes.every, "offset": sizes.every - 1}
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        folder / "vision",
        folder / "language",
        new_token_ids=processor.new_token_ids,
        connector=openflamingo.PERCEIVER,
        fusion=openflamingo.CROSS_ATTENTION | blocks,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)
    model.save_pretrained(folder / "flamingo")
    processor.save_pretrained(folder / "flamingo")
    torch.save(openflamingo.export(model, processor), folder / "openflamingo.pt")


def image_path(folder: Path, number: int) -> Path:
    """Returns the path of an image by its number."""
    return folder / "pictures" / f"{number}.jpg"


def make_prompts(sizes: Sizes, shots: int, shared: bool) -> list[Prompt]:
    """Returns a prompt for each query. With ``shared`` all prompts have the same demonstrations."""
    prompts = []
    for query in range(sizes.queries):
        rng = random.Random(0 if shared else query)
        demonstrations = []
        for _ in range(shots):
            number = rng.randrange(sizes.support)
            demonstrations.append((number, _text_of_image(sizes, number)))
        prompts.append(Prompt(demonstrations, sizes.support + query))
    return prompts


def _text_of_image(sizes: Sizes, number: int) -> str:
    rng = random.Random(f"text {number}")
    num_words = sizes.text - 2  # the image marker and the end of the chunk are tokens, too
    words = sizes.shape().words
    return " ".join(f"w{rng.randrange(words.start, words.stop)}" for _ in range(num_words))


def make_batch(sizes: Sizes, images: int, tokens: int, image_token: int, seed: int = 0) -> dict[str, Tensor]:
    """Returns a training batch with image markers at equal distances."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes.train_batch, tokens)
    image_index = (torch.arange(tokens) * images // tokens).expand(shape).contiguous()
    words = sizes.shape().words
    ids = torch.randint(words.start, words.stop, shape, generator=generator)
    is_marker = torch.cat([torch.ones(shape[0], 1, dtype=torch.bool), image_index.diff(dim=1) > 0], dim=1)
    ids[is_marker] = image_token
    pixels_shape = (sizes.train_batch, images, 3, sizes.image_size, sizes.image_size)
    features_shape = (sizes.train_batch, images, 1, sizes.patches, sizes.vision_width)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "image_index": image_index,
        "labels": ids.masked_fill(is_marker, -100),
        "pixel_values": torch.randn(pixels_shape, generator=generator),
        "image_features": torch.randn(features_shape, generator=generator),
    }
