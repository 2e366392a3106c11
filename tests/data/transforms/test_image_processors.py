"""Image processors of encoders are found and resized, and those of timm are replaced."""

import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoConfig, AutoModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from flamingo.data.transforms.image_processors import load_image_processor
from flamingo.data.transforms.pixels import normalized, resized
from flamingo.utils.errors import UserError
from tests import tiny


def test_the_side_is_that_of_a_square_picture(tmp_path):
    """YOLOS' processor states a shortest and a longest edge."""
    YolosImageProcessorPil().save_pretrained(tmp_path)
    image_processor = load_image_processor(tmp_path, 32)
    assert resized(image_processor, [PILImage.new("RGB", (50, 50))]).shape == (1, 3, 32, 32)


def test_an_encoder_without_an_image_processor_is_refused(tmp_path):
    AutoConfig.for_model("vit", **tiny.VISION_MODELS["vit"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"image processor {tmp_path}: "):
        load_image_processor(tmp_path)


def test_image_size_is_refused_for_processors_without_a_resize(tmp_path):
    SiglipImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="image_size is 24, but SiglipImageProcessorPil"):
        load_image_processor(tmp_path, 24)


def test_that_of_timm_is_made_a_plain_one(tmp_path):
    timm = pytest.importorskip("timm")
    architecture = "resnet10t"
    settings = timm.get_pretrained_cfg(architecture).to_dict()
    config = AutoConfig.for_model("timm_wrapper", architecture=architecture, pretrained_cfg=settings)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    picture = PILImage.effect_noise((300, 200), 60).convert("RGB")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(settings), is_training=False)
    pixels = normalized(image_processor := load_image_processor(tmp_path), resized(image_processor, [picture]))
    assert pixels.shape == (1, 3, 176, 176)
    torch.testing.assert_close(pixels[0], transform(picture), atol=0.05, rtol=0)
    assert resized(load_image_processor(tmp_path, 160), [picture]).shape == (1, 3, 160, 160)
    image_processor.save_pretrained(tmp_path / "saved")
    assert load_image_processor(tmp_path / "saved").size == image_processor.size
