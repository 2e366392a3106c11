"""Pretrains a vision encoder by contrast; saves the encoder and the dual encoder of both towers, and probes it."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from experiments.cli.command import Job
from experiments.pretrain_vision import PretrainVisionConfig
from flamingo.data.batch_sizes import BatchSizes
from flamingo.data.collate import Batch
from flamingo.data.data_checksums import data_checksums
from flamingo.data.document import Image
from flamingo.data.loader import process_loader
from flamingo.data.order import Shuffled
from flamingo.data.pretraining.tokenizer import END_OF_TEXT, train_tokenizer
from flamingo.data.records.record import Record, by_reason
from flamingo.data.sources import read_split
from flamingo.data.transforms.pictures import open_image
from flamingo.model.architecture import build_architecture, check_architecture
from flamingo.model.contrastive import ImageTextContrast, ImageTower, TextTower, text_config
from flamingo.model.contrastive_dual_encoder import ContrastiveDualEncoder
from flamingo.model.vision import encode_patches
from flamingo.report.model_card import BACKBONE_FILES, CardTexts, save_backbone
from flamingo.synthetic.documents import SyntheticContrasts
from flamingo.synthetic.feature_probe import probe_features
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.step import DataSet
from flamingo.utils.devices import to_device, use_device
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.memory import out_of_memory
from flamingo.utils.run_folder import Run, failure_recorded, run_folder

log = logging.getLogger(__name__)

Pair = tuple[Image, str]

#: The text tower: the tokens of a caption, as in CLIP, and of its vocabulary.
_MAX_LENGTH, _VOCAB_SIZE = 77, 8192
#: The number of groups of the synthetic benchmark whose captions train the tokenizer.
_TOKENIZER_GROUPS = 1000


@dataclass
class CollatePairs:
    """Collates groups of pairs into pixel values, token ids, and a matrix of equal captions."""

    image_processor: Any
    tokenizer: Any

    def __call__(self, groups: list[list[Pair]]) -> Batch:
        """Returns the batch of some groups."""
        pairs = [pair for group in groups for pair in group]
        captions = [caption for _, caption in pairs]
        images = [open_image(image.frames[0]) for image, _ in pairs]
        numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        caption_numbers = torch.tensor([numbers[caption] for caption in captions])
        texts = [caption + self.tokenizer.eos_token for caption in captions]
        tensors = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
        tensors["pixel_values"] = self.image_processor(images, return_tensors="pt")["pixel_values"]
        tensors["same"] = caption_numbers[:, None] == caption_numbers
        num_tokens = int(tensors["attention_mask"].sum())
        sizes = BatchSizes(tokens=num_tokens, images=len(pairs), encoded_images=len(pairs))
        # The loss is a mean over pairs, not over tokens.
        return Batch(tensors, captions, label_tokens=len(pairs), sizes=sizes)


def read_pairs(name: str) -> tuple[list[Pair], PreTrainedTokenizerFast, dict[str, str]]:
    """Returns the pairs of a source, a tokenizer of their captions, and reasons for captions that are left out.

    Each image is paired with each of its captions. Captions with a special token and captions that are too long for
    the text tower are left out.

    Raises:
        UserError: For an unreadable source, and if no pair is left.
    """
    source = read_split(name)
    skipped = dict(source.skipped)
    candidates: dict[str, Pair] = {}
    for record in source.records:
        for number, caption in enumerate(record.captions):
            location = f"{record.id}, caption {number}"
            if END_OF_TEXT in caption:
                skipped[location] = f"a caption has a special token: {END_OF_TEXT}"
            else:
                candidates[location] = (record.image, caption)
    tokenizer = _train_tokenizer(candidates.values())
    pairs = []
    for location, (image, caption) in candidates.items():
        length = len(tokenizer(caption + tokenizer.eos_token)["input_ids"])
        if length > _MAX_LENGTH:
            skipped[location] = f"a caption is too long: it has {length} tokens, more than the {_MAX_LENGTH} that fit"
        else:
            pairs.append((image, caption))
    if not pairs:
        raise UserError(f"pairs: {name} has no usable caption: {by_reason(skipped)}")
    if skipped:
        log.warning("left out %d: %s", len(skipped), by_reason(skipped))
    return pairs, tokenizer, skipped


def _train_tokenizer(pairs: Iterable[Pair]) -> PreTrainedTokenizerFast:
    return train_tokenizer((caption for _, caption in pairs), _VOCAB_SIZE, _MAX_LENGTH)


def pretrain(config: PretrainVisionConfig, output: Path) -> None:
    """Writes the encoder to ``output / "model"``, both towers to ``"dual_encoder"``, and scores to ``scores.json``."""
    use_device(config.device)
    with run_folder(output, asdict(config), BACKBONE_FILES) as run, failure_recorded(run):
        check_architecture(AutoModel, config.model)
        groups: Sequence[list[Pair]]
        if config.pairs is None:
            groups = SyntheticContrasts(config.training.seed, config.group_size)
            tokenizer = _train_tokenizer(pair for i in range(_TOKENIZER_GROUPS) for pair in groups[i])
            run.begin({})
        else:
            pairs, tokenizer, skipped = read_pairs(config.pairs)
            groups = [[pair] for pair in pairs]
            run.begin({"pairs": data_checksums(_as_records(pairs))})
            write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
        _train(config, groups, tokenizer, run)


def _as_records(pairs: Sequence[Pair]) -> list[Record]:
    """Returns a record for each pair, to compute checksums of the pairs."""
    return [Record(str(number), image, (caption,), None) for number, (image, caption) in enumerate(pairs)]


def _train(
    config: PretrainVisionConfig, groups: Sequence[list[Pair]], tokenizer: PreTrainedTokenizerFast, run: Run
) -> None:
    half = [0.5] * 3
    size = {"height": config.image_size, "width": config.image_size}
    image_processor = ViTImageProcessorPil(size=size, image_mean=half, image_std=half)
    torch.manual_seed(config.training.seed)
    encoder = build_architecture(AutoModel, config.model)
    log.info("%s, %.2f million parameters", type(encoder).__name__, encoder.num_parameters() / 1e6)
    image_tower = ImageTower(encoder, config.vision_features, config.embed_dim)
    text_tower = TextTower(text_config(tokenizer, config.embed_dim), config.embed_dim)
    model = ImageTextContrast(image_tower, text_tower)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs of torch
    batches = Shuffled(groups, config.training.seed)
    collate = CollatePairs(image_processor, tokenizer)
    data = DataSet("pairs", process_loader(batches, collate, config.batch_size, config.num_workers))
    with out_of_memory("batch_size"):
        train(model, [data], config.optimizer, config.training, run.output, Callbacks(on_save=run.keep))
    source = config.pairs or "pictures of the synthetic benchmark"
    card = CardTexts(
        title=f"Vision encoder, {type(encoder).__name__}, pretrained by contrast on {source}",
        command="pretrain_vision",
        unit="pair",
        scores="accuracy of probes on held-out scenes",
    )
    save_dual_encoder(run.output / "dual_encoder", model, image_processor, tokenizer)
    scores = None if config.pairs else _probe(encoder, image_processor, config)
    save_backbone(run.output, asdict(config), encoder, image_processor, card, scores)


def save_dual_encoder(
    folder: Path, model: ImageTextContrast, image_processor: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Saves both towers with the image processor and a tokenizer that ends each text, complete or not at all."""
    end = (END_OF_TEXT, tokenizer.eos_token_id)
    post_processor = TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[end])
    tokenizer.backend_tokenizer.post_processor = post_processor
    with atomic_folder(folder) as unfinished:
        ContrastiveDualEncoder.of_training(model).save_pretrained(unfinished)
        image_processor.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def _probe(encoder: Any, image_processor: Any, config: PretrainVisionConfig) -> dict[str, float]:
    def encode(images: list[PILImage.Image]) -> Tensor:
        pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
        return encode_patches(encoder, to_device(pixel_values, encoder.device), config.vision_features)

    encoder.eval()
    return probe_features(encode, config.training.seed, config.probed_scenes)


def run_job(job: Job[PretrainVisionConfig]) -> None:
    """Runs the command."""
    pretrain(job.load(), job.output)
