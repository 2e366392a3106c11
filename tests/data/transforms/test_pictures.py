"""Every image that Pillow opens becomes an upright RGB image with the right colours, or an error that names it."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from flamingo.data.document import Crop, Image
from flamingo.data.transforms.pictures import open_image, shaped
from flamingo.inference.features import ContentKeys
from flamingo.utils.errors import UserError


def grey(values, dtype):
    return PILImage.fromarray(np.array([values], dtype))


def row(picture):
    """The pixels of the first row."""
    assert picture.mode == "RGB"
    return [picture.getpixel((x, 0)) for x in range(picture.width)]


def levels(picture):
    assert all(red == green == blue for red, green, blue in row(picture))
    return [red for red, _, _ in row(picture)]


class Member:
    """A picture inside something larger."""

    def __init__(self, content):
        self.content = content

    def read_bytes(self):
        return self.content

    def __str__(self):
        return "album.tar:dog"


# ----------------------------------------------------------------------------------- modes


def test_sixteen_bits_are_scaled_by_their_whole_range(tmp_path):
    picture = grey([0, 257, 1000, 32896, 65535], np.uint16)
    assert levels(open_image(picture)) == [0, 1, 4, 128, 255]
    picture.save(tmp_path / "16.png")
    picture.save(tmp_path / "16.tif")
    assert levels(open_image(tmp_path / "16.png")) == levels(open_image(tmp_path / "16.tif")) == [0, 1, 4, 128, 255]
    big_endian = PILImage.frombytes("I;16B", (2, 1), struct.pack(">2H", 256, 65535))
    assert levels(open_image(big_endian)) == [1, 255]


def test_numbers_of_unknown_range_are_stretched_from_min_to_max(tmp_path):
    assert levels(open_image(grey([-100, 0, 100_000, 300_000], np.int32))) == [0, 0, 85, 255]
    assert levels(open_image(grey([0.25, 0.5, 0.75], np.float32))) == [0, 128, 255]
    assert levels(open_image(grey([7.5, 7.5], np.float32))) == [0, 0]
    grey([0.25, 0.5, 0.75], np.float32).save(tmp_path / "float.tif")
    assert levels(open_image(tmp_path / "float.tif")) == [0, 128, 255]
    with pytest.raises(UserError, match="finite"):
        open_image(grey([0.0, float("nan")], np.float32))


def test_what_is_transparent_shows_white(tmp_path):
    rgba = PILImage.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        rgba.putpixel((x, 0), (200, 0, 0, alpha))
    assert row(open_image(rgba)) == [(255, 255, 255), (227, 127, 127), (200, 0, 0)]
    rgba.save(tmp_path / "rgba.png")
    assert row(open_image(tmp_path / "rgba.png")) == row(open_image(rgba))
    la = PILImage.new("LA", (2, 1), (60, 0))
    la.putpixel((1, 0), (60, 255))
    assert levels(open_image(la)) == [255, 60]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_also_where_one_colour_stands_for_it(mode, tmp_path):
    """PNG and GIF name a colour, or entries of the palette, instead of having an alpha channel."""
    if mode == "P":
        picture = PILImage.new("P", (2, 1), 0)
        picture.putpalette([10, 20, 30, 0, 90, 0])
        picture.putpixel((1, 0), 1)
        picture.save(tmp_path / "key.gif", transparency=0)
        assert row(open_image(tmp_path / "key.gif")) == [(255, 255, 255), (0, 90, 0)]
        picture.save(tmp_path / "key.png", transparency=bytes([0, 255]))
    else:
        dark, other = {"L": (9, 90), "RGB": ((9, 9, 9), (90, 90, 90)), "I;16": (9 * 257, 90 * 257)}[mode]
        picture = PILImage.new(mode, (2, 1), dark)
        picture.putpixel((1, 0), other)
        picture.save(tmp_path / "key.png", transparency=dark)
    assert row(open_image(tmp_path / "key.png")) == [(255,) * 3, (0, 90, 0) if mode == "P" else (90,) * 3]


def test_other_modes_keep_their_colours(tmp_path):
    PILImage.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red, green, blue = open_image(tmp_path / "cmyk.jpg").getpixel((8, 8))
    assert red > 250 and green < 5 and blue < 5
    bits = PILImage.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    bits.save(tmp_path / "bits.png")
    assert levels(open_image(tmp_path / "bits.png")) == [0, 255]
    palette = PILImage.new("P", (2, 1), 1)
    palette.putpalette([1, 2, 3, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    assert row(open_image(tmp_path / "palette.png")) == [(40, 50, 60)] * 2
    assert levels(open_image(grey([0, 77, 255], np.uint8))) == [0, 77, 255]


def test_turned_pictures_are_turned_upright(tmp_path):
    picture = PILImage.new("L", (40, 20))
    picture.paste(255, (0, 0, 20, 20))
    exif = PILImage.Exif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "turned.jpg", exif=exif)
    upright = open_image(tmp_path / "turned.jpg")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 255, 255) and upright.getpixel((10, 35)) == (0, 0, 0)


# ------------------------------------------------------------------------- where they come from


def test_bytes_are_read_from_paths_strings_and_members(tmp_path):
    PILImage.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    member = Member((tmp_path / "a.png").read_bytes())
    for frame in (tmp_path / "a.png", str(tmp_path / "a.png"), member):
        assert row(open_image(frame)) == [(1, 2, 3)] * 3


def test_a_crop_has_half_of_the_image_or_more_and_is_repeatable(tmp_path):
    across, down = np.meshgrid(np.arange(60), np.arange(40))
    pixels = np.stack([across, down, across * 0], axis=-1).astype(np.uint8)
    PILImage.fromarray(pixels).save(tmp_path / "a.png")
    boxes, mirrored = set(), 0
    for number in range(1, 101):
        view = np.asarray(open_image(Crop(tmp_path / "a.png", number)))
        turned = view[0, 0, 0] > view[0, -1, 0]
        part = view[:, ::-1] if turned else view
        (left, top), (height, width) = part[0, 0, :2], part.shape[:2]
        assert np.array_equal(part, pixels[top : top + height, left : left + width])
        assert 0.48 < width * height / 2400 <= 1
        boxes.add((left, top, width, height))
        mirrored += turned
        for same in (str(tmp_path / "a.png"), PILImage.fromarray(pixels)):
            assert np.array_equal(np.asarray(open_image(Crop(same, number))), view)
    assert len(boxes) > 90
    assert 30 < mirrored < 70


def test_only_a_whole_photograph_has_crops(tmp_path):
    image = Image("a.png")
    assert image.crop(0) is image
    assert str(image.crop(2).frames[0]) == "a.png, crop 2"
    for other in (image.crop(1), Image("a.png", "b.png")):
        with pytest.raises(ValueError, match=r"crops.*a\.png"):
            other.crop(1)
    with pytest.raises(UserError, match=r"b\.png"):
        open_image(Crop(tmp_path / "b.png", 1))


def broken_png_header():
    """A header of 16 bits with a palette, which is none of PNG's kinds, under a right checksum."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 4, 4, 16, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", b"P6 4 x 255 ", b"\xff\xd8\xff\xe0", broken_png_header()],
    ids=["empty", "text", "ppm", "jpeg", "png"],
)
def test_broken_pictures_are_one_error_that_names_them(content, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.jpg"):
        open_image(tmp_path / "broken.jpg")
    with pytest.raises(UserError, match=r"album\.tar:dog"):
        open_image(Member(content))


def test_so_are_those_cut_off_too_large_or_missing(tmp_path, monkeypatch):
    stream = io.BytesIO()
    PILImage.effect_noise((64, 64), 50).save(stream, "JPEG")
    with pytest.raises(UserError, match=r"album\.tar:dog.*truncated"):
        open_image(Member(stream.getvalue()[:700]))
    with pytest.raises(UserError, match=r"nowhere\.jpg"):
        open_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="directory"):
        open_image(tmp_path)
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"album\.tar:dog.*20 pixels"):
        open_image(Member(stream.getvalue()))


def test_a_long_image_is_padded_to_a_square_that_fits_in_memory():
    for size in ((1, 20_000), (20_000, 3)):
        padded = shaped(PILImage.new("RGB", size, "red"), "pad")
        assert padded.size == (8192, 8192)
        assert padded.getpixel((4096, 4096)) == padded.getpixel((0, 0)) == (255, 0, 0)
    assert shaped(PILImage.new("RGB", (20_000, 3)), "crop").size == (3, 3)


def test_postscript_is_not_run():
    """Pillow would hand it to Ghostscript, whatever the file's name."""
    stream = io.BytesIO()
    PILImage.new("RGB", (4, 3)).save(stream, "EPS")
    with pytest.raises(UserError, match=r"album\.tar:dog"):
        open_image(Member(stream.getvalue()))


def test_of_a_long_animation_one_frame_is_read(tmp_path):
    frames = [PILImage.new("P", (8, 8), number % 256) for number in range(2_000)]
    frames[0].save(tmp_path / "long.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "long.gif").size == (8, 8)


def test_only_regular_files_are_opened(tmp_path):
    """A named pipe without a writer would wait for ever, in a resumed run as in a new one."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    PILImage.new("RGB", (4, 3), "red").save(tmp_path / "real.png")
    (tmp_path / "good.jpg").symlink_to(tmp_path / "real.png")
    for frame in (tmp_path / "pipe.jpg", str(tmp_path / "link.jpg"), tmp_path / "folder.jpg", "/dev/zero"):
        for read in (open_image, ContentKeys().of):
            with pytest.raises(UserError, match=f"image {frame} "):
                read(frame)
    assert open_image(tmp_path / "good.jpg").size == (4, 3)


# ---------------------------------------------------------------------------------- aspect


def stripes(size, turned):
    """Red, blue, blue from left to right, or from top to bottom."""
    picture = PILImage.new("RGB", (3 * size, size), (0, 0, 240))
    picture.paste((240, 0, 0), (0, 0, size, size))
    return picture.transpose(PILImage.Transpose.ROTATE_270) if turned else picture


@pytest.mark.parametrize("turned", [False, True])
def test_an_image_is_padded_with_its_mean_colour_or_cropped(turned):
    picture = stripes(10, turned)

    def at(square, along, across):
        return square.getpixel((across, along) if turned else (along, across))

    padded = shaped(picture, "pad")
    assert padded.size == (30, 30)
    assert at(padded, 15, 9) == at(padded, 15, 20) == (80, 0, 160)
    assert at(padded, 5, 10) == at(padded, 5, 19) == (240, 0, 0)
    assert at(padded, 25, 10) == at(padded, 25, 19) == (0, 0, 240)
    cropped = shaped(stripes(10, turned), "crop")
    assert cropped.size == (10, 10)
    assert cropped.getcolors() == [(100, (0, 0, 240))]
    assert shaped(picture, "as_is") is picture
    assert shaped(cropped, "pad") is cropped and shaped(cropped, "crop") is cropped


def test_the_centre_of_an_odd_length_is_within_a_pixel():
    assert shaped(PILImage.new("RGB", (7, 4)), "crop").size == (4, 4)
    assert shaped(PILImage.new("RGB", (4, 7)), "pad").size == (7, 7)
