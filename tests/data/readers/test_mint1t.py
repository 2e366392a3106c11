"""MINT-1T's tar files: each frame of a TIFF is the picture of its image."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from flamingo.data.readers import tiff_frames
from flamingo.data.transforms.pictures import frame_bytes, open_image
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import mint1t_json, read_pages, tiff, web_dataset

IMAGES = ["page_0_image_85", None, "page_2_image_9", None]
TEXTS = [None, "A figure.", None, "The end."]


def frames(modes=("RGB", "L")):
    """Noise of different sizes."""
    rng = np.random.default_rng(0)
    pictures = []
    for place, mode in enumerate(modes):
        noise = rng.integers(0, 256, (5, 4 + 8 * place, 3), dtype=np.uint8)
        pictures.append(PILImage.fromarray(noise).convert(mode))
    return pictures


def shard(file, content, images=IMAGES, texts=TEXTS):
    members = {"json": mint1t_json(images, texts)}
    if content is not None:
        members["tiff"] = content
    return web_dataset(file, {"ef8e1a893ecf4e08": members})


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_frames_are_the_pictures_of_the_images_in_order(compression, tmp_path):
    file = shard(tmp_path / "0.tar", tiff(frames(), compression=compression))
    page = read_pages("mint1t", file)[0]
    assert page.id == "ef8e1a893ecf4e08" and page.texts == ["A figure.", "The end."]
    images = [page.parts[0], page.parts[2]]
    assert [image.name for image in images] == ["page_0_image_85", "page_2_image_9"]
    for image, original in zip(images, frames(), strict=True):
        content = frame_bytes(image.image.frames[0])
        with PILImage.open(io.BytesIO(content)) as picture:
            assert picture.n_frames == 1 and picture.mode == original.mode
            assert picture.info["compression"] == compression
            assert np.array_equal(picture, original)


def test_a_frame_with_losses_keeps_its_pixels(tmp_path):
    content = tiff(frames(("RGB", "RGB")), compression="jpeg")
    page = read_pages("mint1t", shard(tmp_path / "0.tar", content))[0]
    with PILImage.open(io.BytesIO(content)) as picture:
        picture.seek(1)
        assert np.array_equal(open_image(page.parts[2].image.frames[0]), picture.convert("RGB"))


def test_a_page_without_a_tiff_lacks_its_pictures(tmp_path):
    page = read_pages("mint1t", shard(tmp_path / "0.tar", None))[0]
    assert [page.parts[0].fault, page.parts[2].fault] == ["image missing", "image missing"]


def endless():
    """A TIFF whose second directory is followed by itself."""
    content = bytearray(tiff(frames()))
    first = int.from_bytes(content[4:8], "little")
    after_first = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    second = int.from_bytes(content[after_first : after_first + 4], "little")
    after_second = second + 2 + 12 * int.from_bytes(content[second : second + 2], "little")
    content[after_second : after_second + 4] = second.to_bytes(4, "little")
    return bytes(content)


def many_frames(number):
    """A TIFF with directories of no fields, each followed by the next."""
    directories = [b"\0\0" + (8 + 6 * (place + 1)).to_bytes(4, "little") for place in range(number - 1)]
    return b"II*\0" + (8).to_bytes(4, "little") + b"".join(directories) + bytes(6)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("frames do not fit the images", tiff(frames(("L", "L", "L")))),
        ("too many frames", many_frames(10_000)),
        ("too many frames", endless()),
        ("broken TIFF", tiff(frames())[:50]),
        ("broken TIFF", b"no picture"),
    ],
    ids=["other number", "10,000 frames", "endless", "cut off", "no TIFF"],
)
def test_a_tiff_that_does_not_fit_costs_its_page_alone(kind, content, tmp_path):
    with pytest.raises(UserError, match=f"^{kind}: "):
        read_pages("mint1t", shard(tmp_path / "0.tar", content))


def test_a_huge_tiff_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_frames, "LARGEST_TIFF", 100)
    with pytest.raises(UserError, match=r"^TIFF too large: "):
        read_pages("mint1t", shard(tmp_path / "0.tar", tiff(frames())))


def test_a_frame_that_is_a_decompression_bomb_cannot_be_opened(tmp_path, monkeypatch):
    page = read_pages("mint1t", shard(tmp_path / "0.tar", tiff(frames())))[0]
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 25)  # the frames have 20 and 60 pixels
    with pytest.raises(UserError, match="exceeds limit"):
        open_image(page.parts[2].image.frames[0])


@pytest.mark.parametrize(
    ("kind", "images", "texts"),
    [
        ("lists of other lengths", ["a", "b"], [None]),
        ("an image and a text in one place", ["a", "b"], ["x", None]),
        ("wrong field images", [3], [None]),
        ("wrong field texts", ["a", "b"], "text"),
    ],
)
def test_a_broken_json_costs_its_page_alone(kind, images, texts, tmp_path):
    with pytest.raises(UserError, match=f"^{kind}: "):
        read_pages("mint1t", shard(tmp_path / "0.tar", tiff(frames()), images, texts))


def test_a_tiff_without_a_json_is_an_incomplete_page(tmp_path):
    file = web_dataset(tmp_path / "0.tar", {"a": {"tiff": tiff(frames())}})
    with pytest.raises(UserError, match=r"^incomplete page: "):
        read_pages("mint1t", file)
