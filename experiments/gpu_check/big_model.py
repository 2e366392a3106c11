"""Flamingo-3B with random weights on the device, and a training batch of it."""

import random
from dataclasses import dataclass

import torch
from transformers import CLIPVisionModel, OPTForCausalLM

from experiments.benchmark.shapes import Shape
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.collate import Batch, EncodedExample
from flamingo.data.encode import EncodedGroup, make_batch
from flamingo.model.config import FlamingoConfig
from flamingo.model.connectors import PerceiverConfig
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.utils.token_ids import TokenIds

#: A decoder like OPT-1.3B, CLIP ViT-L/14, and a block before every layer. The heads are Flamingo's (appendix A.1.1).
FLAMINGO_3B = Shape(
    width=2048,
    layers=24,
    heads=32,
    vocab_size=50272,
    vision_width=1024,
    vision_layers=24,
    image_size=224,
    patch=14,
    every=1,
    num_heads=16,
    head_dim=128,
    resampler_depth=6,
    num_latents=64,
)
#: The shape of a CPU test.
TINY = Shape(
    width=32,
    layers=2,
    heads=2,
    vocab_size=200,
    vision_width=32,
    vision_layers=2,
    image_size=28,
    patch=14,
    every=1,
    num_heads=2,
    head_dim=16,
    resampler_depth=1,
    num_latents=4,
)


@dataclass(frozen=True)
class BatchSize:
    """The sizes of a training batch without padding."""

    rows: int
    #: Of a row.
    tokens: int
    images: int


def build_processor(shape: Shape) -> FlamingoProcessor:
    """Returns the processor of a model with random weights."""
    return FlamingoProcessor(shape.image_processor(), shape.tokenizer())


def build_model(
    shape: Shape, processor: FlamingoProcessor, device: torch.device, dtype: torch.dtype
) -> FlamingoForConditionalGeneration:
    """Returns a model with random weights drawn on the device.

    The backbones have ``dtype``, and the trained parts are in fp32. The gates are open, so gradients reach all parts.
    """
    torch.manual_seed(0)
    with torch.device(device):
        vision_model = CLIPVisionModel._from_config(shape.vision_config(), dtype=dtype)
        language_model = OPTForCausalLM._from_config(shape.language_config(), dtype=dtype)
        config = FlamingoConfig(
            vision_config=vision_model.config,
            text_config=language_model.config,
            new_token_ids=processor.new_token_ids,
            connector=PerceiverConfig(
                depth=shape.resampler_depth,
                num_latents=shape.num_latents,
                num_heads=shape.num_heads,
                head_dim=shape.head_dim,
            ),
            fusion=CrossAttentionConfig(
                every=shape.every,
                offset=shape.every - 1,
                num_heads=shape.num_heads,
                head_dim=shape.head_dim,
            ),
        )
        model = FlamingoForConditionalGeneration(config, vision_model, language_model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(0.5)
    return model


def make_training_batch(shape: Shape, processor: FlamingoProcessor, size: BatchSize) -> Batch:
    """Returns a batch of random words and random pixels, as bytes, with images at equal distances in a row.

    The batch is checked like those of a training, so the step reads nothing back from the device.
    """
    rng = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    picture = (size.images, 1, 3, shape.image_size, shape.image_size)
    image_index = torch.arange(size.tokens) * size.images // size.tokens
    is_marker = torch.cat([torch.ones(1, dtype=torch.bool), image_index.diff() > 0])
    groups = []
    for row in range(size.rows):
        words = rng.choices(shape.words, k=size.tokens)
        input_ids = torch.tensor(words).masked_fill(is_marker, processor.image_token_id)
        example = EncodedExample(
            input_ids=input_ids,
            image_index=image_index,
            labels=input_ids.masked_fill(is_marker, -100),
            pixel_values=torch.randint(256, picture, generator=generator, dtype=torch.uint8),
        )
        groups.append(EncodedGroup([example], f"row {row}"))
    known_ids = TokenIds(shape.vocab_size, tuple(processor.new_token_ids))
    return make_batch(groups, processor.tokenizer.pad_token_id, known_ids=known_ids)
