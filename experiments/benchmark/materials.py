"""What all implementations get: backbones and trained parts with random weights, pictures, prompts, batches."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flamingo.data.processor import FlamingoProcessor
from flamingo.interop import openflamingo
from flamingo.model.modeling import FlamingoForConditionalGeneration


@dataclass
class Sizes:
    """By default OPT-125M with CLIP ViT-B/32; the same keys are arguments of the command."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50272
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
        return (self.image_size // self.patch) ** 2


#: The second one is that of Flamingo-3B: a language model of 1.3 billion parameters, and CLIP ViT-L/14.
SHAPES = {
    "125m": Sizes(),
    "3b": Sizes(
        **{"width": 2048, "layers": 24, "heads": 32, "vision_width": 1024, "vision_layers": 24, "patch": 14},
        train_batch=8,
    ),
}


def build(folder: Path, sizes: Sizes) -> None:
    """Save backbones, a checkpoint of ours, the same as OpenFlamingo's, and pictures."""
    torch.manual_seed(0)
    language = OPTConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        ffn_dim=4 * sizes.width,
        word_embed_proj_dim=sizes.width,
        vocab_size=sizes.vocabulary,
        dropout=0.0,
        attention_dropout=0.0,
    )
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=max(1, sizes.vision_width // 64),
        image_size=sizes.image_size,
        patch_size=sizes.patch,
    )
    OPTForCausalLM(language).save_pretrained(folder / "language")
    _tokenizer(sizes.vocabulary - 7).save_pretrained(folder / "language")
    CLIPVisionModel(vision).save_pretrained(folder / "vision")
    square = {"height": sizes.image_size, "width": sizes.image_size}
    CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder / "vision")
    processor = FlamingoProcessor.from_vision_text_pretrained(folder / "vision", folder / "language")
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        folder / "vision",
        folder / "language",
        new_token_ids=processor.new_token_ids,
        connector=openflamingo.PERCEIVER,
        fusion={**openflamingo.CROSS_ATTENTION, "every": sizes.every, "offset": sizes.every - 1},
    )
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)
    model.save_pretrained(folder / "flamingo")
    processor.save_pretrained(folder / "flamingo")
    torch.save(openflamingo.export(model, processor), folder / "openflamingo.pt")
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(sizes.support + sizes.queries):
        coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        PILImage.fromarray(coarse).resize((500, 375)).save(picture(folder, number), quality=90)


def picture(folder: Path, number: int) -> Path:
    """A photograph's size, and as smooth."""
    return folder / "pictures" / f"{number}.jpg"


def _tokenizer(words: int) -> PreTrainedTokenizerFast:
    """A word a token, so that texts have the length that is asked for."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{f"w{i}": i for i in range(4, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=2048,
    )


def prompts(sizes: Sizes, shots: int, shared: bool) -> list[dict[str, Any]]:
    """Numbers of pictures with texts as demonstrations, and the query's; ``shared``: the same ones for all queries."""
    made = []
    for query in range(sizes.queries):
        rng = random.Random(0 if shared else query)
        shown = [rng.randrange(sizes.support) for _ in range(shots)]
        # With the marker of the image and the end of the chunk so many tokens.
        texts = {n: _words(random.Random(f"text {n}"), sizes.text - 2, sizes.vocabulary) for n in shown}
        made.append({"demonstrations": [[n, texts[n]] for n in shown], "query": sizes.support + query})
    return made


def _words(rng: random.Random, count: int, vocabulary: int) -> str:
    return " ".join(f"w{rng.randrange(4, vocabulary - 7)}" for _ in range(count))


def batch(sizes: Sizes, images: int, tokens: int, image_token: int, seed: int = 0) -> dict[str, Tensor]:
    """A training batch: ``images`` markers at equal distances, each image seen up to the next one."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes.train_batch, tokens)
    image_index = (torch.arange(tokens) * images // tokens).expand(shape).contiguous()
    ids = torch.randint(4, sizes.vocabulary - 7, shape, generator=generator)
    first = torch.cat([torch.ones(shape[0], 1, dtype=torch.bool), image_index.diff(dim=1) > 0], dim=1)
    ids[first] = image_token
    size = (sizes.train_batch, images, 3, sizes.image_size, sizes.image_size)
    features = (sizes.train_batch, images, 1, sizes.patches, sizes.vision_width)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "image_index": image_index,
        "labels": ids.masked_fill(first, -100),
        "pixel_values": torch.randn(size, generator=generator),
        "image_features": torch.randn(features, generator=generator),
    }
