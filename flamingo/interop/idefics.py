"""IDEFICS (OBELICS, arXiv 2306.16527), as transformers saves it -> our model and processor.

The checkpoint is complete: its language model is a LLaMA and its vision encoder a CLIP, and both may have been trained.
"""

from contextlib import suppress
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    IdeficsConfig,
    LlamaConfig,
)

# Imported by its full name: without torchvision transformers 5.17 hides the class at its top level.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flamingo.data.processor import IMAGE_TOKEN, FlamingoProcessor
from flamingo.interop.weights import Names, feedforward_patterns, fill, read_weights, renamed
from flamingo.model.config import FlamingoConfig
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: The token before and after an image, once between two images.
AROUND_IMAGE = "<fake_token_around_image>"
END_OF_UTTERANCE = "<end_of_utterance>"

#: Keys that its config shares with CLIP's config, and with LLaMA's.
_VISION_KEYS = (
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "hidden_act",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_parameters",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)
#: Kind of gate in IDEFICS -> ours.
_GATES = {"float": "scalar", "vector": "vector"}
#: Our name of a part of a feed-forward -> theirs.
_FEEDFORWARD = {"norm": "ln", "up": "fc", "down": "c_proj"}
_TABLE = {
    r"vision_model\.(?:vision_model\.)?(.*)": r"model.vision_model.\1",  # twice before transformers 5.20
    r"language_model\.(.*)": r"\1",
    r"new_tokens\.input_rows": r"model.embed_tokens.additional_embedding.weight",
    r"new_tokens\.output_rows": r"lm_head.additional_fc.weight",
    r"connector\.latents": r"model.perceiver_resampler.latents",
    r"connector\.norm\.(.*)": r"model.perceiver_resampler.layer_norm.\1",
    r"connector\.layers\.(\d+)\.norm_features\.(.*)": r"model.perceiver_resampler.blocks.\1.0.context_layer_norm.\2",
    r"connector\.layers\.(\d+)\.norm_latents\.(.*)": r"model.perceiver_resampler.blocks.\1.0.latents_layer_norm.\2",
    r"connector\.layers\.(\d+)\.attention\.to_out\.(.*)": r"model.perceiver_resampler.blocks.\1.0.output_proj.\2",
    r"connector\.layers\.(\d+)\.attention\.to_(.)\.(.*)": r"model.perceiver_resampler.blocks.\1.0.\2_proj.\3",
    r"connector\.layers\.(\d+)\.attention\.(.)_norm\.(.*)": r"model.perceiver_resampler.blocks.\1.0.\2_layer_norm.\3",
    r"fusion\.blocks\.(\d+)\.norm\.(.*)": r"model.gated_cross_attn_layers.\1.input_layernorm.\2",
    r"fusion\.blocks\.(\d+)\.attention_gate": r"model.gated_cross_attn_layers.\1.alpha_cross_attn",
    r"fusion\.blocks\.(\d+)\.attention\.to_out\.(.*)": r"model.gated_cross_attn_layers.\1.cross_attn.o_proj.\2",
    r"fusion\.blocks\.(\d+)\.attention\.to_(.)\.(.*)": r"model.gated_cross_attn_layers.\1.cross_attn.\2_proj.\3",
    r"fusion\.blocks\.(\d+)\.attention\.(.)_norm\.(.*)": (
        r"model.gated_cross_attn_layers.\1.cross_attn.\2_layer_norm.\3"
    ),
    r"fusion\.blocks\.(\d+)\.feedforward_gate": r"model.gated_cross_attn_layers.\1.alpha_dense",
    r"fusion\.blocks\.(\d+)\.feedforward\.norm\.(.*)": r"model.gated_cross_attn_layers.\1.post_attention_layernorm.\2",
    r"fusion\.blocks\.(\d+)\.feedforward\.(up|gate|down)\.(.*)": r"model.gated_cross_attn_layers.\1.mlp.\2_proj.\3",
}
_TABLE |= feedforward_patterns(
    r"connector\.layers\.(\d+)\.feedforward", r"model.perceiver_resampler.blocks.\1.1", _FEEDFORWARD
)


def convert(
    checkpoint: Path, vision: str | None = None, language: str | None = None
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, list[str]]:
    """Returns our model, its processor, and notes for the user.

    Args:
        checkpoint: A folder with all weights.
        vision: The source of the image processor; None: the folder.
        language: The source of the tokenizer; None: the folder.

    Raises:
        UserError: If keys are missing, left over or of another shape, or the model has no resampler; the error names
            the folder and the key.
    """
    config = _read_config(checkpoint)
    weights = read_weights(checkpoint)
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
    processor = _processor(vision or checkpoint, language or checkpoint, config)
    model = FlamingoForConditionalGeneration(_config(config, dtype))
    fill(model, weights, _names(model, config), checkpoint)
    with suppress(OSError):  # the file is optional
        model.generation_config = GenerationConfig.from_pretrained(checkpoint)
    notes = []
    if processor.end_of_chunk != END_OF_UTTERANCE:
        notes.append(f"chunks end with {processor.end_of_chunk!r}, because IDEFICS has no token for it")
    return model, processor, notes


def _read_config(checkpoint: Path) -> IdeficsConfig:
    if not (checkpoint / "config.json").exists():
        raise UserError(f"{checkpoint} is not a folder of save_pretrained: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged or forged file may raise anything
        reason = str(error).split("\n")[0]
        raise UserError(f"{checkpoint / 'config.json'} cannot be read: {reason}") from error
    if not isinstance(config, IdeficsConfig):
        raise UserError(f"{checkpoint} holds a {config.model_type}, not an idefics")
    if not config.use_resampler:
        raise UserError(f"{checkpoint} has use_resampler=false in its config.json, but Flamingo needs a resampler")
    if config.alpha_type not in _GATES:
        raise UserError(f"{checkpoint} has alpha_type={config.alpha_type!r} in its config.json: no kind of gate")
    return config


def _config(config: IdeficsConfig, dtype: torch.dtype) -> FlamingoConfig:
    """Returns our config, with backbones in the precision that they were saved in."""
    vision, perceiver = config.vision_config, config.perceiver_config
    vision_fields = {key: getattr(vision, key) for key in _VISION_KEYS}
    text_fields = {key: getattr(config, key) for key in _TEXT_KEYS}
    return FlamingoConfig(
        vision_config=CLIPVisionConfig(hidden_size=vision.embed_dim, dtype=dtype, **vision_fields),
        text_config=LlamaConfig(dtype=dtype, **text_fields),
        vision_features={"class_token": "keep"},
        connector={
            "depth": perceiver.resampler_depth,
            "num_latents": perceiver.resampler_n_latents,
            "num_heads": perceiver.resampler_n_heads,
            "head_dim": perceiver.resampler_head_dim,
            "activation": "relu",
            "qk_norm": perceiver.qk_layer_norms_perceiver,
            "qk_norm_kind": "layer",
        },
        fusion={
            "kind": "cross_attention",
            "every": config.cross_layer_interval,
            "num_heads": config.num_attention_heads,
            "head_dim": config.hidden_size // config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "activation": config.hidden_act,
            "glu": True,
            "norm": "rms",
            "rms_norm_eps": config.rms_norm_eps,
            "gate": _GATES[config.alpha_type],
            "qk_norm": config.qk_layer_norms,
        },
        new_token_ids=list(range(config.vocab_size, config.vocab_size + config.additional_vocab_size)),
    )


def _names(model: FlamingoForConditionalGeneration, config: IdeficsConfig) -> Names:
    left_out = {"new_tokens.token_ids"}
    if config.tie_word_embeddings:  # saved once
        left_out |= {"language_model.lm_head.weight"}
    if not config.additional_vocab_size:
        left_out |= {"new_tokens.input_rows", "new_tokens.output_rows"}
    names = renamed([key for key in model.state_dict() if key not in left_out], _TABLE)
    for key, name in names.items():
        if key.startswith("fusion.blocks."):
            # Their blocks are counted; ours have the index of the layer that they precede.
            layer = key.split(".")[2]
            position = int(layer) // config.cross_layer_interval
            names[key] = name.replace(f"_layers.{layer}.", f"_layers.{position}.")
    return names


def _processor(vision: str | Path, language: str | Path, config: IdeficsConfig) -> FlamingoProcessor:
    tokenizer = from_pretrained(AutoTokenizer, language, "tokenizer")
    saved_processor = from_pretrained(AutoImageProcessor, vision, "image processor", backend="pil")
    side = config.vision_config.image_size
    image_processor = CLIPImageProcessorPil(  # the whole picture, resized to a square
        size={"height": side, "width": side},
        do_center_crop=False,
        resample=saved_processor.resample,
        image_mean=saved_processor.image_mean,
        image_std=saved_processor.image_std,
    )
    vocabulary = tokenizer.get_vocab()
    new_tokens = [token for token, index in vocabulary.items() if index >= config.vocab_size]
    new_tokens.sort(key=vocabulary.__getitem__)
    missing = [token for token in (AROUND_IMAGE, IMAGE_TOKEN) if token not in vocabulary]
    if missing and (len(missing) < 2 or len(tokenizer) != config.vocab_size):
        raise UserError(
            f"the tokenizer in {language} has no {missing[0]}, and {len(tokenizer)} tokens for a vocabulary of "
            f"{config.vocab_size}"
        )
    return FlamingoProcessor(
        image_processor,
        tokenizer,
        new_tokens=missing or new_tokens,  # LLaMA's own tokenizer gets them in the order of IDEFICS's
        end_of_chunk=END_OF_UTTERANCE if END_OF_UTTERANCE in vocabulary else "\n",
        image_marker=f"{AROUND_IMAGE}{IMAGE_TOKEN}{AROUND_IMAGE}",
    )
