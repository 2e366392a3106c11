"""Pretrains a vision encoder by contrast with captions (CLIP, arXiv 2103.00020), and probes what it knows.

python -m experiments.pretrain_vision                                    the synthetic benchmark's encoder
python -m experiments.pretrain_vision pairs=captions.jsonl image_size=128 training.steps=20000

`pairs` are captioned images as experiments.train takes them: each is paired with each of its captions. `model` is
any vision encoder of transformers, described as its own config.json would be. Only the encoder is kept;
what compared it with captions, the text tower and the two projections, has done its work.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from experiments.configs import build, check, nested, plain
from experiments.data import captioned_images
from experiments.loading import data_set
from experiments.schema import command
from flamingo.data.contents import contents
from flamingo.data.document import Image
from flamingo.data.order import Shuffled
from flamingo.data.record import CaptionedImage, by_reason
from flamingo.data.tokenizer import END_OF_TEXT, train_tokenizer
from flamingo.data.transforms.pictures import open_image
from flamingo.model.architecture import check_architecture
from flamingo.model.contrastive import ImageTextContrast, ImageTower, TextTower
from flamingo.model.vision import encode_patches
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.report.model_card import KIND, CardTexts, save_backbone
from flamingo.synthetic.documents import SyntheticContrasts
from flamingo.synthetic.feature_probe import probe_features
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
    return train_tokenizer((caption for _, caption in pairs), vocab_size=8192, max_length=_POSITIONS)


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
    pairs_of = config["pairs"] or "pictures of the synthetic benchmark"
    card = CardTexts(
        title=f"Vision encoder, {type(encoder).__name__}, pretrained by contrast on {pairs_of}",
        command="pretrain_vision",
        unit="pair",
        scores="accuracy of probes on held-out scenes",
    )
    scores = None
    if not config["pairs"]:
        encoder.eval()

        def encode(images: list[PILImage.Image]) -> Tensor:
            pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
            return encode_patches(encoder, pixel_values, features)

        scores = probe_features(encode, training.seed)
    save_backbone(output, config, encoder, image_processor, card, scores)


@command("pretrain_vision")
def main(config: DictConfig) -> None:
    pretrain(plain(config), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
