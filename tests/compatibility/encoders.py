"""Every image encoder of transformers, tiny and random: composed, trained a step, run, saved and loaded."""

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.vision import encode_tokens, image_size, num_channels
from flamingo.model.vision_loading import make_vision_model, vision_config
from flamingo.utils.errors import UserError
from tests import tiny
from tests.compatibility.encoder_configs import settle, tiny_encoder_config
from tests.compatibility.sweep import Outcome, not_built

#: Saved under the current names of weights: saved under the original ones transformers 5.23 renames the vision tower's.
_CURRENT_NAMES = ("altclip",)
#: Models with fields of these names that see no pictures.
_NO_PICTURES = ("audio-spectrogram-transformer", "blt")

#: Which architecture a sentence speaks of.
REASONS = (
    ("takes videos|takes pixel_values_videos|takes inference_session", "video"),
    ("masks patches at random", "random masking"),
    ("besides pictures|not pixel_values|without other inputs", "further inputs"),
    ("no grid of p|not a grid of p|no patch features|which is not a list of tokens", "no patch grid"),
    ("transformers has no vision encoder", "part of another model"),
)
#: What their sentences do not tell.
REASON_OF = {
    "ernie4_5_vl_moe_vision": "further inputs",
    "lw_detr": "no patch grid",
    "rf_detr": "no patch grid",
    "sam3_tracker_video": "video",
    "timm_backbone": "weights are found by timm's names only",
}


@cache
def classes() -> dict[str, str]:
    """The class of every model type that encodes pictures, or is the vision tower of one that does."""
    listed = {
        *modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    found = set(listed)
    for model_type in CONFIG_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:  # a config without defaults
            continue
        tower = getattr(config, "vision_config", getattr(config, "image_config", None))
        if isinstance(tower, PreTrainedConfig):
            found.add(tower.model_type)
        fields = ("image_size", "num_channels", "patch_size", "backbone_config")
        if model_type in modeling_auto.MODEL_MAPPING_NAMES and any(hasattr(config, field) for field in fields):
            found.add(model_type)
    return {model_type: class_name(model_type) for model_type in sorted(found - {*_NO_PICTURES})}


def class_name(model_type: str) -> str:
    names = {**modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES, **modeling_auto.MODEL_MAPPING_NAMES}
    return str(names.get(model_type, ""))


def __getattr__(name: str) -> dict[str, str]:
    """``CLASSES`` is made when it is asked for, since it takes the configs of all models of transformers."""
    if name != "CLASSES":
        raise AttributeError(name)
    return classes()


def trial(model_type: str) -> Outcome:
    """Compose a tiny random model of this type and try all that a Flamingo does with it."""
    name = class_name(model_type)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            name = save_encoder(model_type, folder / "vision")
        except UserError as error:
            return refused(model_type, name, error, folder)
        except Exception as error:
            return not_built(model_type, name, error)
        save_language_model(folder / "language")
        try:
            model, settings = composed(folder)
        except UserError as error:
            return refused(model_type, name, error, folder)
        name = type(model.vision_model).__name__
        check_training(model)
        check_generation(model.eval())
        check_saving(model, folder)
    return Outcome(model_type, name, "works", sentence=described(model, settings))


def described(model: FlamingoForConditionalGeneration, settings: dict[str, Any]) -> str:
    """The settings that the encoder needs, and what they give."""
    config = model.vision_model.config
    picture = torch.zeros(1, num_channels(config), *image_size(config))
    layout = encode_tokens(model.vision_model, picture, model.config.vision_features)[1]
    grid = f"{layout.rows} x {layout.columns} patches of a picture of {picture.shape[-2]} x {picture.shape[-1]}"
    needed = [f"vision_features.{key}={value}" for key, value in settings.items()]
    return ", ".join([grid, *needed])


def refused(model_type: str, name: str, error: UserError, folder: Path) -> Outcome:
    found = [reason for pattern, reason in REASONS if re.search(pattern, str(error))]
    reason = REASON_OF.get(model_type) or (found[0] if found else "")
    return Outcome(model_type, name, "refused", reason, str(error).replace(str(folder), "FOLDER"))


def save_encoder(model_type: str, folder: Path) -> str:
    """Save a tiny random encoder, or the whole model of which it is a part, and return the class's name."""
    config = tiny_encoder_config(model_type)
    whole = vision_config(config) is not config
    model = make_whole_model(config) if whole else make_vision_model(config)
    tower = type(vision_config(config))
    settle(next(m for m in model.modules() if isinstance(m, PreTrainedModel) and isinstance(m.config, tower)))
    model.save_pretrained(folder, save_original_format=model_type not in _CURRENT_NAMES)
    return type(model).__name__


def make_whole_model(config: PreTrainedConfig) -> PreTrainedModel:
    for loader in (AutoModel, AutoModelForImageTextToText, AutoModelForImageClassification):
        if type(config) in loader._model_mapping:
            return loader.from_config(config)
    raise ValueError(f"no class for a {config.model_type}")


def save_language_model(folder: Path) -> None:
    sizes = {**tiny.LANGUAGE_MODELS["gpt2"], "bos_token_id": 0, "eos_token_id": 1}
    config = GPT2Config(vocab_size=tiny.VOCABULARY, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def composed(folder: Path) -> tuple[FlamingoForConditionalGeneration, dict[str, Any]]:
    """A Flamingo with the settings that its errors ask for, one after another."""
    settings: dict[str, Any] = {}
    while True:
        try:
            model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
                folder / "vision",
                folder / "language",
                new_token_ids=tiny.NEW_TOKEN_IDS,
                vision_features=settings,
                **tiny.PARTS,
            )
        except UserError as error:
            asked = re.search(r"vision_features\.(\w+) is .*: set it to (\S+)", str(error))
            if asked is None or asked[1] in settings:
                raise
            settings[asked[1]] = int(asked[2]) if re.fullmatch(r"-?\d+", asked[2]) else asked[2]
        else:
            tiny.open_gates(model, 0.7)
            return model, settings


def inputs(model: FlamingoForConditionalGeneration) -> dict[str, torch.Tensor]:
    config = model.vision_model.config
    shape = (2, 3, num_channels(config), *image_size(config))
    return {**tiny.inputs(), "pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(2))}


def check_training(model: FlamingoForConditionalGeneration) -> None:
    """Every parameter that trains gets a gradient, and no other."""
    batch = inputs(model)
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without, f"no gradient in {without}"
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not frozen, f"a gradient in {frozen}"
    model.zero_grad()


def check_generation(model: FlamingoForConditionalGeneration) -> None:
    """The pictures matter, and the cache does not."""
    batch = inputs(model)
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.equal(model(**batch).logits, model(**other).logits), "other pictures give the same logits"
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached, uncached = (model.generate(**batch, **settings, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, uncached), f"cached {cached[:, 14:].tolist()}, not {uncached[:, 14:].tolist()}"


def check_saving(model: FlamingoForConditionalGeneration, folder: Path) -> None:
    """A loaded checkpoint gives the same logits, with its backbones and without."""
    expected = model(**inputs(model)).logits
    for include_backbones in (True, False):
        model.save_pretrained(folder / "flamingo", include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(folder / "flamingo")
        assert torch.equal(loaded(**inputs(model)).logits, expected), "loaded, it gives other logits"
