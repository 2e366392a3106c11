"""Tiny random checkpoints in the layouts of published ones, for dry runs: the same kinds of parts, a few layers."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    IdeficsConfig,
    IdeficsForVisionText2Text,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

from experiments.convert import ConvertConfig
from experiments.runs.run_conversion import run_conversion
from experiments.setup.tiny_data import tiny_texts
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.pretraining.tokenizer import train_tokenizer
from flamingo.interop import openflamingo
from flamingo.model.language import make_text_model
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file

IMAGE_SIZE, VOCABULARY, POSITIONS = 16, 300, 2048
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_MPT_1B = ("mosaic_gpt", {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": POSITIONS}, 1)
_GPT_NEOX = (
    "gpt_neox",
    _VISION | {"num_hidden_layers": 4, "max_position_embeddings": POSITIONS, "tie_word_embeddings": False},
    2,
)
_MPT_7B = ("mpt", {"d_model": 16, "n_heads": 2, "n_layers": 4, "max_seq_len": POSITIONS}, 4)
#: Name of a checkpoint of OpenFlamingo -> the architecture of its language model with tiny sizes, and the interval of
#: gated blocks.
_OPENFLAMINGO: dict[str, tuple[str, dict[str, Any], int]] = {
    "openflamingo/OpenFlamingo-3B-vitl-mpt1b": _MPT_1B,
    "openflamingo/OpenFlamingo-3B-vitl-mpt1b-langinstruct": _MPT_1B,
    "openflamingo/OpenFlamingo-4B-vitl-rpj3b": _GPT_NEOX,
    "openflamingo/OpenFlamingo-4B-vitl-rpj3b-langinstruct": _GPT_NEOX,
    "openflamingo/OpenFlamingo-9B-vitl-mpt7b": _MPT_7B,
}


@torch.no_grad()
def write_tiny_checkpoint(model: str, folder: Path) -> None:
    """Writes a checkpoint in the layout of the original, and converts it into ``folder / "checkpoint"``.

    Args:
        model: The name of the published checkpoint.
        folder: The folder of all files.

    Raises:
        UserError: For a checkpoint whose layout is not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"output": str(folder / "checkpoint")}
    if model == "HuggingFaceM4/idefics-9b":
        original = folder / "original"
        _save_idefics(original)
        run_conversion(ConvertConfig(source="idefics", checkpoint=str(original), **arguments))
        return
    if model not in _OPENFLAMINGO:
        raise UserError(f"dry_run=true: the layout of {model} is not known")
    vision, language = str(folder / "vision"), str(folder / "language")
    _save_openflamingo(folder / "checkpoint.pt", vision, language, *_OPENFLAMINGO[model])
    arguments |= {"vision": vision, "language": language}
    run_conversion(ConvertConfig(source="openflamingo", checkpoint=str(folder / "checkpoint.pt"), **arguments))


def _save_openflamingo(
    file: Path, vision: str, language: str, architecture: str, sizes: dict[str, Any], every: int
) -> None:
    """Saves the backbones in transformers' format and checkpoint.pt in OpenFlamingo's, with opened gates."""
    encoder = CLIPVisionModel(CLIPVisionConfig(image_size=IMAGE_SIZE, patch_size=4, **_VISION))
    encoder.save_pretrained(vision)
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(vision)
    tokenizer = _tokenizer()
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer) + 20, **sizes)
    make_text_model(config).save_pretrained(language)
    tokenizer.save_pretrained(language)
    processor = FlamingoProcessor.from_vision_text_pretrained(vision, language)
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        vision,
        language,
        new_token_ids=processor.new_token_ids,
        connector=openflamingo.PERCEIVER,
        fusion=openflamingo.CROSS_ATTENTION | {"every": every, "offset": every - 1},
        vision_features=openflamingo.VISION_FEATURES,
    )
    for name, parameter in model.fusion.named_parameters():
        if name.endswith("gate"):
            parameter.fill_(0.5)
    with atomic_file(file, "wb") as stream:
        torch.save(openflamingo.export(model, processor), stream)


def _save_idefics(folder: Path) -> None:
    """Saves a checkpoint of transformers' IDEFICS, with its tokenizer and image processor."""
    tokenizer = _tokenizer()
    vision = {"embed_dim": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    perceiver = {"resampler_depth": 2, "resampler_n_latents": 4, "resampler_n_heads": 2, "resampler_head_dim": 8}
    config = IdeficsConfig(
        vocab_size=len(tokenizer),
        additional_vocab_size=2,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        cross_layer_interval=4,
        max_position_embeddings=POSITIONS,
        alpha_type="float",
        alpha_initializer="ones",
        qk_layer_norms=True,
        use_resampler=True,
        vision_config=vision | {"image_size": IMAGE_SIZE, "patch_size": 4},
        perceiver_config=perceiver | {"qk_layer_norms_perceiver": True},
    )
    IdeficsForVisionText2Text(config).save_pretrained(folder)
    tokenizer.add_tokens(["<fake_token_around_image>", "<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    IdeficsImageProcessorPil(image_size=IMAGE_SIZE).save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(tiny_texts(), VOCABULARY, POSITIONS)
