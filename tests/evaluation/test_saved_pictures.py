"""Saved pictures are small, and each has a file of its own."""

from PIL import Image as PILImage

from flamingo import Image
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.saved_pictures import save_pictures
from flamingo.utils.names import picture_path


def test_pictures_are_small_and_never_take_each_others_place(tmp_path):
    wide = Example("a/wide 1.jpg", Image(PILImage.new("RGB", (1000, 500), "red")), ("r",))
    small = Example("ü", Image(PILImage.new("RGB", (30, 20), "blue")), ("r",))
    save_pictures(tmp_path, "flickr8k", [wide, small, wide])
    sizes = {id: PILImage.open(picture_path(tmp_path, "flickr8k", id)).size for id in (wide.id, small.id)}
    assert sizes == {wide.id: (256, 128), small.id: (30, 20)}
    assert len(list((tmp_path / "flickr8k").iterdir())) == 2


def test_pictures_of_one_example_are_side_by_side(tmp_path):
    wide = Image(PILImage.new("RGB", (1000, 500), "red"))
    small = Image(PILImage.new("RGB", (30, 20), "blue"))
    save_pictures(tmp_path, "pairs", [Example("pair", wide, ("r",), later_images=(small,))])
    picture = PILImage.open(picture_path(tmp_path, "pairs", "pair"))
    assert picture.size == (286, 128)
    colours = [picture.getpixel(place) for place in ((255, 0), (256, 0), (256, 20))]
    assert colours == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]
