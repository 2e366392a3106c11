"""Pretrains a vision encoder by contrast with captions (CLIP, arXiv 2103.00020), and probes what it knows.

python -m experiments.pretrain_vision                                    the synthetic benchmark's encoder
python -m experiments.pretrain_vision pairs=captions.jsonl image_size=128 training.steps=20000

`pairs` are captioned images as experiments.train takes them: each is paired with each of its captions. `model` is
any vision encoder of transformers, described as its own config.json would be. Only the encoder is kept;
what compared it with captions, the text tower and the two projections, has done its work.
"""

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from jaxtyping import Bool, Float, Int
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from experiments.architecture import check_architecture
from experiments.card import KIND, save_backbone
from experiments.configs import build, check, nested, plain
from experiments.data import captioned_images
from experiments.loading import data_set
from experiments.probe import probe
from experiments.schema import command
from experiments.tokenizer import END_OF_TEXT, train_tokenizer
from flamingo.data.contents import contents
from flamingo.data.document import Image
from flamingo.data.order import Shuffled
from flamingo.data.record import CaptionedImage, by_reason
from flamingo.data.transforms.pictures import open_image
from flamingo.model.config import VisionFeaturesConfig
from flamingo.model.vision import encode_patches, feature_width
from flamingo.synthetic.documents import SyntheticContrasts
from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.optim import OPTIMIZERS, OptimizerConfig
from flamingo.training.optim.schedule import check_warmup
from flamingo.training.step import Batch
from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.kinds import load_kind
from flamingo.utils.run_folder import Run, failure_recorded, run_folder

log = logging.getLogger(__name__)

Pair = tuple[Image, str]

#: Tokens of the longest caption that the text tower reads, as in CLIP.
_POSITIONS = 77


@dataclass
class PretrainVisionConfig:
    """What the encoder is, what it is compared with, and for how long."""

    output: str = MISSING
    overwrite: bool = False
    #: Fields of a transformers config; "model_type" says whose.
    model: dict[str, Any] = field(default_factory=dict)
    vision_features: Any = nested(VisionFeaturesConfig)
    image_size: int = MISSING
    #: Null: scenes of the synthetic benchmark, in groups that differ in one thing each.
    pairs: str | None = None
    #: Groups in a batch, and pairs in a group of the synthetic benchmark.
    batch: int = MISSING
    group: int = MISSING
    #: Of the text tower, and of the space in which pictures and captions are compared.
    width: int = MISSING
    workers: int = MISSING
    optimizer: Any = nested(OptimizerConfig)
    training: Any = nested(TrainingConfig)

    def __post_init__(self) -> None:
        for key in ("image_size", "batch", "group", "width"):
            whole(key, getattr(self, key), least=1)
        whole("workers", self.workers, least=0)


ConfigStore.instance().store("pretrain_vision_schema", PretrainVisionConfig)


class ImageTower(nn.Module):
    """The encoder, and an attention pool over its features without positions of its own.

    Like the resampler that later reads these features, the pool cannot know where a feature comes from
    unless the feature says so; whatever the contrast needs of places has to be in there.
    """

    def __init__(self, encoder: Any, features: VisionFeaturesConfig, width: int, queries: int = 8) -> None:
        super().__init__()
        self.encoder, self.features = encoder, features
        inner = feature_width(encoder, features)
        self.queries = nn.Parameter(torch.randn(queries, inner) * inner**-0.5)
        self.norm = nn.LayerNorm(inner)
        self.attention = nn.MultiheadAttention(inner, num_heads=4, batch_first=True)
        self.projection = nn.Sequential(
            nn.LayerNorm(queries * inner), nn.Linear(queries * inner, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b width"]:
        """Of unit length."""
        # Convolutions of few channels are several times faster with the channels last.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = self.norm(encode_patches(self.encoder, pixel_values, self.features))
        queries = repeat(self.queries, "q v -> b q v", b=len(features))
        pooled, _ = self.attention(queries, features, features, need_weights=False)
        return F.normalize(self.projection(rearrange(pooled, "b q v -> b (q v)")), dim=-1)


class TextTower(nn.Module):
    """CLIP's text encoder, small."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.encoder = CLIPTextModel(config)
        self.projection = nn.Linear(width, width)

    def forward(self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]) -> Float[Tensor, "b width"]:
        """Of unit length."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return F.normalize(self.projection(states), dim=-1)


class Loss(NamedTuple):
    """As the training loop reads it."""

    loss: Tensor


class ImageTextContrast(nn.Module):
    """Two towers and a learned temperature."""

    def __init__(self, images: ImageTower, texts: TextTower) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self,
        pixel_values: Float[Tensor, "b c h w"],
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"],
        same: Bool[Tensor, "b b"],
        num_items_in_batch: int,
    ) -> Loss:
        """CLIP's symmetric loss, in nats per pair. ``same`` marks equal captions: no negatives of each other."""
        # The temperature is clamped so that logits are scaled by 100 at most (CLIP, section 2.5).
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        logits = scale * self.images(pixel_values) @ self.texts(input_ids, attention_mask).T
        logits = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), -torch.inf)
        targets = torch.arange(len(logits), device=logits.device)
        both = F.cross_entropy(logits, targets, reduction="sum") + F.cross_entropy(logits.T, targets, reduction="sum")
        return Loss(both / 2 / num_items_in_batch)


class PairBatch(Batch):
    """Its loss counts pairs, not tokens."""

    def label_tokens(self) -> int:
        return len(self.ids)


@dataclass
class Collate:
    """Groups of pairs -> pixels, tokens, and which captions are equal."""

    image_processor: Any
    tokenizer: Any

    def __call__(self, groups: list[list[Pair]]) -> PairBatch:
        pairs = [pair for group in groups for pair in group]
        captions = [caption for _, caption in pairs]
        number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        kinds = torch.tensor([number[caption] for caption in captions])
        pictures = [open_image(image.frames[0]) for image, _ in pairs]
        text = self.tokenizer([c + self.tokenizer.eos_token for c in captions], padding=True, return_tensors="pt")
        pixels = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return PairBatch({"pixel_values": pixels, **text, "same": kinds[:, None] == kinds}, captions)


def read_pairs(name: str) -> tuple[list[Pair], PreTrainedTokenizerFast, dict[str, str]]:
    """Return each image of a source with each of its captions, a tokenizer of these, and why others are left out.

    A caption that the text tower cannot read is left out: one with a special token, or with more tokens than positions.
    """
    source = captioned_images(name, None, None, None)
    skipped = dict(source.skipped)
    named: list[tuple[str, Pair]] = []
    for own in source.images:
        for number, caption in enumerate(own.captions):
            where = f"{own.id}, caption {number}"
            if END_OF_TEXT in caption:
                skipped[where] = f"a caption has a special token: {END_OF_TEXT}"
            else:
                named.append((where, (own.image, caption)))
    tokenizer = _tokenizer(pair for _, pair in named)
    pairs = []
    for where, pair in named:
        length = len(tokenizer(pair[1] + tokenizer.eos_token)["input_ids"])
        if length > _POSITIONS:
            skipped[where] = f"a caption is too long: it has {length} tokens, more than the {_POSITIONS} that fit"
        else:
            pairs.append(pair)
    if not pairs:
        raise UserError(f"pairs: {name} has no caption that can be used: {by_reason(skipped)}")
    if skipped:
        log.warning("left out %d: %s", len(skipped), by_reason(skipped))
    return pairs, tokenizer, skipped


def _tokenizer(pairs: Iterable[Pair]) -> PreTrainedTokenizerFast:
    return train_tokenizer((caption for _, caption in pairs), vocabulary=8192, positions=_POSITIONS)


def pretrain(config: dict[str, Any], output: Path) -> None:
    """Leaves the encoder and its image processor in ``output / "model"``, its probes in ``scores.json``."""
    with run_folder(output, config, KIND) as run, failure_recorded(run):
        check(PretrainVisionConfig, config)
        check_warmup(load_kind(OPTIMIZERS, config["optimizer"], "optimizer"), config["training"]["steps"])
        check_architecture(AutoModel, config["model"])
        _pretrain(config, run)


def _pretrain(config: dict[str, Any], run: Run) -> None:
    output = run.output
    found: dict[str, Any] = {}
    training = build(TrainingConfig, config["training"], "training")
    features = build(VisionFeaturesConfig, config["vision_features"], "vision_features")
    skipped: dict[str, str] = {}
    groups: Sequence[list[Pair]]
    if config["pairs"] is None:
        groups = SyntheticContrasts(training.seed, config["group"])
        tokenizer = _tokenizer(pair for index in range(1000) for pair in groups[index])
    else:
        pairs, tokenizer, skipped = read_pairs(config["pairs"])
        shown = [CaptionedImage(str(number), image, (said,), None) for number, (image, said) in enumerate(pairs)]
        found["pairs"] = contents(shown)
        groups = [[pair] for pair in pairs]
    run.begin(found)
    if config["pairs"] is not None:
        write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
    size, half = config["image_size"], [0.5] * 3
    image_processor = ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=half, image_std=half)

    torch.manual_seed(training.seed)
    encoder = AutoModel.from_config(AutoConfig.for_model(**config["model"]))
    log.info("%s, %.2f million parameters", type(encoder).__name__, encoder.num_parameters() / 1e6)
    model = ImageTextContrast(ImageTower(encoder, features, config["width"]), TextTower(tokenizer, config["width"])).to(
        memory_format=torch.channels_last
    )
    data = data_set(
        "pairs",
        Shuffled(groups, training.seed),
        Collate(image_processor, tokenizer),
        batch_size=config["batch"],
        num_workers=config["workers"],
    )
    optimizer = load_kind(OPTIMIZERS, config["optimizer"], "optimizer")
    train(model, [data], optimizer, training, output, on_save=run.keep)
    save_backbone(
        output,
        config,
        encoder,
        image_processor,
        title=f"Vision encoder, {type(encoder).__name__}, pretrained by contrast on "
        + (config["pairs"] or "pictures of the synthetic benchmark"),
        command="pretrain_vision",
        unit="pair",
        scores=None if config["pairs"] else probe(encoder, image_processor, features, training.seed),
        scored_on="accuracy of probes on held-out scenes",
    )


@command("pretrain_vision")
def main(config: DictConfig) -> None:
    pretrain(plain(config), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
