"""JPEGs that are decoded at a part of their size: large enough for the result, of the same part of the picture."""

import numpy as np
import pytest
from PIL import ExifTags
from PIL import Image as PILImage
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from flamingo.data.document import Crop
from flamingo.data.transforms.pictures import open_image, open_reduced
from flamingo.data.transforms.pixels import resized

CROPPED = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24})
WHOLE = CLIPImageProcessorPil(size={"shortest_edge": 28}, do_center_crop=False)
SQUARE = SiglipImageProcessorPil(size={"height": 24, "width": 30})


def gradient(path, width, height, orientation=None):
    """Writes a JPEG whose red grows to the right and whose green grows downwards."""
    red = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    picture = PILImage.fromarray(np.stack([red, green, 0 * red], axis=2).astype(np.uint8))
    exif = PILImage.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    picture.save(path, quality=95, exif=exif)
    return path


@pytest.mark.parametrize("width, height", [(501, 375), (239, 301), (700, 101)])
@pytest.mark.parametrize("aspect", ["as_is", "pad", "crop"])
@pytest.mark.parametrize("image_processor", [CROPPED, WHOLE, SQUARE], ids=["cropped", "whole", "square"])
def test_a_reduced_picture_gives_the_same_part(tmp_path, image_processor, aspect, width, height):
    path = gradient(tmp_path / "1.jpg", width, height)
    found = resized(image_processor, [path], aspect, draft=True)
    expected = resized(image_processor, [path], aspect)
    assert found.shape == expected.shape
    difference = (found.float() - expected.float())[:, :2].abs()
    # Neighbouring pixels differ by 8 levels or more. The edge of padding moves by less than a pixel.
    assert difference.quantile(0.9) <= 7


@pytest.mark.parametrize(
    "share, size",
    [(0.51, (501, 375)), (0.5, (251, 188)), (0.26, (251, 188)), (0.25, (126, 94)), (0.125, (63, 47)), (0.01, (63, 47))],
)
def test_a_picture_is_reduced_to_at_least_the_needed_size(tmp_path, share, size):
    path = gradient(tmp_path / "1.jpg", 501, 375)
    picture, whole_size = open_reduced(path, lambda width, height: share)
    assert (picture.size, whole_size) == (size, (501, 375))


@pytest.mark.parametrize("aspect, size", [("as_is", (134, 50)), ("crop", (134, 50)), ("pad", (67, 25))])
def test_the_needed_size_counts_the_crop(tmp_path, monkeypatch, aspect, size):
    """Of a picture of 534 x 200 pixels the square of 200 becomes 28 pixels; padded, the square of 534."""
    path = gradient(tmp_path / "1.jpg", 534, 200)
    sizes = []

    def noted(frame, needed_share):
        picture, whole_size = open_reduced(frame, needed_share)
        sizes.append(picture.size)
        return picture, whole_size

    monkeypatch.setattr("flamingo.data.transforms.pixels.open_reduced", noted)
    resized(CROPPED, [path], aspect, draft=True)
    assert sizes == [size]


def test_a_turned_picture_is_measured_upright(tmp_path):
    path = gradient(tmp_path / "1.jpg", 400, 100, orientation=6)
    found = []

    def share(width, height):
        found.append((width, height))
        return 0.5

    picture, whole_size = open_reduced(path, share)
    assert (found, whole_size, picture.size) == ([(100, 400)], (100, 400), (50, 200))


def test_crops_long_pictures_and_other_formats_are_whole(tmp_path):
    path = gradient(tmp_path / "1.jpg", 400, 300)
    long = gradient(tmp_path / "long.jpg", 900, 100)
    png = tmp_path / "1.png"
    open_image(path).save(png)
    crop = Crop(path, 1)
    for frame in (crop, long, png, open_image(path)):
        assert resized(CROPPED, [frame], draft=True).equal(resized(CROPPED, [frame])), frame
    unusual = ConvNextImageProcessorPil(size={"shortest_edge": 24})
    assert resized(unusual, [path], draft=True).equal(resized(unusual, [path]))


def test_pictures_are_not_reduced_by_default(tmp_path):
    path = gradient(tmp_path / "1.jpg", 400, 300)
    with PILImage.open(path) as opened:
        whole = opened.convert("RGB")
    assert resized(CROPPED, [path]).equal(resized(CROPPED, [whole]))
    assert not resized(CROPPED, [path], draft=True).equal(resized(CROPPED, [whole]))
