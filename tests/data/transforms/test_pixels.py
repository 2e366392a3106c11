from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch.nn import functional as F
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil
from transformers.models.poolformer.image_processing_pil_poolformer import PoolFormerImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from flamingo.data.transforms.pixels import USUAL, normalized, resized
from flamingo.utils.errors import UserError

#: Each with the bytes or floats that its pictures become.
PROCESSORS = {
    "in proportion, cropped": (CLIPImageProcessorPil(), torch.uint8),
    "cropped beyond its borders": (
        CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 51, "width": 53}),
        torch.uint8,
    ),
    "to a square": (SiglipImageProcessorPil(image_std=[0.2, 0.3, 0.4]), torch.uint8),
    "as it is": (SiglipImageProcessorPil(do_resize=False), torch.uint8),
    "other statistics": (BitImageProcessorPil(), torch.uint8),
    "no norm": (CLIPImageProcessorPil(do_normalize=False), torch.float32),
    "another scale": (SiglipImageProcessorPil(rescale_factor=1 / 128), torch.uint8),
    "two sizes": (CLIPImageProcessorPil(size={"shortest_edge": 224, "longest_edge": 230}), torch.float32),
    "its own way to resize": (ConvNextImageProcessorPil(), torch.float32),
    "its own way to begin": (MobileNetV2ImageProcessorPil(), torch.float32),
}


@pytest.mark.parametrize("width, height", [(500, 375), (301, 640), (97, 53), (224, 224)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_image_processor(name, width, height):
    image_processor, kind = PROCESSORS[name]
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    pictures = [PILImage.fromarray(one).resize((width, height)) for one in noise]
    pixels = resized(image_processor, pictures)
    assert pixels.dtype == kind
    expected = image_processor(pictures, return_tensors="pt")["pixel_values"]
    found = normalized(image_processor, pixels)
    assert found.shape == expected.shape
    if kind == torch.float32 or not image_processor.do_resize:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        return
    # Pillow and PyTorch round in other places, and the one begins with rows where the other begins with columns.
    level = image_processor.rescale_factor / min(image_processor.image_std)
    difference = (found - expected).abs()
    assert difference.max() < 2.01 * level
    assert difference.mean() < 0.2 * level


#: The module of each image processor that is done by the library.
USUAL_MODULES = {
    "BitImageProcessorPil": "bit",
    "BlipImageProcessorPil": "blip",
    "CLIPImageProcessorPil": "clip",
    "ChameleonImageProcessorPil": "chameleon",
    "ChineseCLIPImageProcessorPil": "chinese_clip",
    "DeiTImageProcessorPil": "deit",
    "MobileNetV1ImageProcessorPil": "mobilenet_v1",
    "OwlViTImageProcessorPil": "owlvit",
    "PPChart2TableImageProcessorPil": "pp_chart2table",
    "PvtImageProcessorPil": "pvt",
    "SiglipImageProcessorPil": "siglip",
    "ViTImageProcessorPil": "vit",
}


@pytest.mark.parametrize("name", sorted(USUAL))
def test_replaced_image_processors_make_the_same_pixels(name):
    module = import_module(f"transformers.models.{USUAL_MODULES[name]}.image_processing_pil_{USUAL_MODULES[name]}")
    kind = getattr(module, name)
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    pictures = [PILImage.fromarray(noise[0]).resize((97, 53)), PILImage.fromarray(noise[1]).resize((301, 640))]
    for size in (kind.size, {"height": 40, "width": 50}, {"shortest_edge": 44}):
        image_processor = kind(size=size, resample=PILImage.Resampling.BICUBIC, do_center_crop=True, crop_size=40)
        for picture in pictures:
            pixels = resized(image_processor, [picture])
            assert pixels.dtype == torch.uint8
            expected = image_processor([picture], return_tensors="pt")["pixel_values"]
            level = image_processor.rescale_factor / min(image_processor.image_std)
            difference = (normalized(image_processor, pixels) - expected).abs()
            assert difference.max() < 3.01 * level  # both round twice
            assert difference.mean() < 0.2 * level


class Nearest(CLIPImageProcessorPil):
    """Resizes in another way."""

    def resize(self, image, size, resample=None, **kwargs):
        return super().resize(image, size, resample=PILImage.Resampling.NEAREST, **kwargs)


class Brighter(CLIPImageProcessorPil):
    """Normalizes in another way."""

    def normalize(self, image, mean, std, **kwargs):
        return super().normalize(image, mean, std, **kwargs) + 1


class Described(CLIPImageProcessorPil):
    """Does the same, which its class does not show."""

    def described(self):
        return "the same"


@pytest.mark.parametrize("kind", [Nearest, Brighter, Described])
def test_a_subclass_makes_its_own_floats(kind):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    pictures = [PILImage.fromarray(noise)]
    expected = kind()(pictures, return_tensors="pt")["pixel_values"]
    pixels = resized(kind(), pictures)
    torch.testing.assert_close(pixels, expected, atol=0, rtol=0)
    assert normalized(kind(), pixels) is pixels


def test_a_foreign_class_of_the_same_name_makes_its_own_floats():
    same_name = type("CLIPImageProcessorPil", (Nearest,), {"__module__": "transformers_modules.own"})
    pixels = resized(same_name(), [PILImage.new("RGB", (60, 40), "red")])
    assert pixels.dtype == torch.float32


@pytest.mark.parametrize("width, height", [(900, 61), (61, 900), (1001, 40), (777, 10)])
@pytest.mark.parametrize("name", [*PROCESSORS, "a share of it cropped", "cropped or squeezed"])
def test_of_long_pictures_what_is_cropped_is_cropped_first(name, width, height):
    """The centre may lie half a pixel elsewhere then."""
    image_processor = {
        "a share of it cropped": PoolFormerImageProcessorPil(),
        "cropped or squeezed": ConvNextImageProcessorPil(size={"shortest_edge": 224}),
    }.get(name) or PROCESSORS[name][0]
    noise = np.random.default_rng(0).integers(0, 256, (4, 60, 3), dtype=np.uint8)
    picture = PILImage.fromarray(noise if width > height else noise.transpose(1, 0, 2)).resize((width, height))
    expected = image_processor([picture], return_tensors="pt")["pixel_values"]
    found = normalized(image_processor, resized(image_processor, [picture]))
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02 * expected.std()


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 20_000)])
@pytest.mark.parametrize("name", [*PROCESSORS, "cropped or squeezed", "not cropped"])
def test_no_picture_is_enlarged_to_gigabytes(name, size, monkeypatch, tmp_path):
    """A picture of 1 by 20,000 pixels would become one of 224 by 4,480,000, of which 224 by 224 are used."""
    image_processor = {
        "cropped or squeezed": ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        "not cropped": CLIPImageProcessorPil(do_center_crop=False),
    }.get(name) or PROCESSORS[name][0]
    PILImage.new("RGB", size, "red").save(tmp_path / "long.png")
    made = []
    interpolate, resize = F.interpolate, PILImage.Image.resize

    def recorded_interpolate(pixels, size, **kwargs):
        made.append(size)
        return interpolate(pixels, size, **kwargs)

    def recorded_resize(picture, size, *args, **kwargs):
        made.append(size)
        return resize(picture, size, *args, **kwargs)

    monkeypatch.setattr("flamingo.data.transforms.pixels.F.interpolate", recorded_interpolate)
    monkeypatch.setattr(PILImage.Image, "resize", recorded_resize)
    if name in ("not cropped", "two sizes"):  # the shorter side of the latter would have no pixel
        with pytest.raises(UserError, match=r"long\.png"):
            resized(image_processor, [tmp_path / "long.png"])
    else:
        assert len(resized(image_processor, [tmp_path / "long.png"])) == 1
    assert all(width * height <= 10_000_000 for width, height in made)


@pytest.mark.parametrize("resample", ["NEAREST", "LANCZOS", "BOX"])
def test_an_unknown_way_to_resize_is_left_to_the_image_processor(resample):
    image_processor = CLIPImageProcessorPil(resample=PILImage.Resampling[resample])
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    pictures = [PILImage.fromarray(noise)]
    expected = image_processor(pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(resized(image_processor, pictures), expected, atol=0, rtol=0)


def test_floats_are_normalized_already():
    floats = torch.randn(1, 3, 4, 4)
    assert normalized(CLIPImageProcessorPil(), floats) is floats


def test_pictures_are_not_padded_to_the_largest_of_their_batch():
    """Features of a picture would depend on the other pictures of the batch."""
    image_processor = YolosImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 96})
    square, wide = PILImage.new("RGB", (40, 40), "red"), PILImage.new("RGB", (80, 40), "red")
    padded = image_processor([square, wide], return_tensors="pt")["pixel_values"]
    assert padded.shape[-2:] == (32, 64)
    with pytest.raises(UserError, match="YolosImageProcessorPil"):
        resized(image_processor, [square, wide])
    assert resized(image_processor, [square, square]).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("kind", [Siglip2ImageProcessorPil, Pix2StructImageProcessorPil, Idefics3ImageProcessorPil])
def test_what_is_no_single_picture_is_refused(kind):
    with pytest.raises(UserError, match=f"{kind.__name__} makes .*pixel_values"):
        resized(kind(), [PILImage.new("RGB", (300, 200), "red")])


def test_pictures_of_different_sizes_are_refused():
    pictures = [PILImage.new("RGB", size) for size in ((60, 40), (40, 60))]
    with pytest.raises(UserError, match=r"CLIP.* different sizes, \[\(20, 30\), \(30, 20\)\]"):
        resized(CLIPImageProcessorPil(size={"shortest_edge": 20}, do_center_crop=False), pictures)
