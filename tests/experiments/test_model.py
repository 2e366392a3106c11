"""From a config's model to backbones: image sizes that the encoder takes."""

import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from experiments.setup.build import build_model
from flamingo.data.document import Image
from flamingo.model.vision_loading import make_vision_model
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.configs import composed


def config(vision, backbones, *overrides):
    small = [f"model.{part}.{key}={value}" for part, sizes in tiny.PARTS.items() for key, value in sizes.items()]
    paths = (f"model.vision={vision}", f"model.language={backbones / 'gpt2'}")
    return composed("train", *paths, *small, "model.vision_features.class_token=none", *overrides).model


def test_pictures_of_another_size_than_the_encoders_own_are_read(backbones):
    model, processor = build_model(config(backbones / "siglip_vision_model", backbones, "model.image_size=24"))
    pixels = processor.pixel_values([Image(PILImage.new("RGB", (50, 40)))])
    assert pixels.shape == (1, 1, 3, 24, 24)
    with torch.no_grad():
        assert model.encode_images(pixels[None, :, 0]).shape == (1, 1, 5, 24)


def test_a_size_that_the_encoder_does_not_take_is_named(backbones, tmp_path):
    sizes = {**tiny.VISION_MODELS["vit"], "output_channels": 12, "window_size": 0, "global_attn_indexes": [0, 1, 2]}
    make_vision_model(AutoConfig.for_model("sam_vision_model", **sizes)).save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    build_model(config(tmp_path, backbones))
    with pytest.raises(UserError, match=r"model\.image_size: SamVisionModel .*24 x 24 pixels.* 16 x 16"):
        build_model(config(tmp_path, backbones, "model.image_size=24"))


def test_the_size_is_that_of_a_square_picture_or_is_refused(backbones, tmp_path):
    """YOLOS' processor states a shortest and a longest edge, and makes multiples of 16."""
    make_vision_model(AutoConfig.for_model("siglip_vision_model", **tiny.VISION_MODELS["vit"])).save_pretrained(
        tmp_path
    )
    YolosImageProcessorPil().save_pretrained(tmp_path)
    _, processor = build_model(config(tmp_path, backbones, "model.image_size=32"))
    assert processor.pixel_values([Image(PILImage.new("RGB", (50, 50)))]).shape == (1, 1, 3, 32, 32)
    with pytest.raises(UserError, match=r"model\.image_size is 40, but YolosImageProcessorPil makes .* 32 x 32"):
        build_model(config(tmp_path, backbones, "model.image_size=40"))
