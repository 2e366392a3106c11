"""Flickr8k and Flickr30k in their four distributed forms, with their known flaws."""

import logging

import pytest

from flamingo.data.readers import flickr as reader
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, reading, shows, write

flickr = reading(reader.flickr)

CSV = """image,caption
b.png,A child in a pink dress .
b.png,"A dog , wet , shakes"
a.png,"The sign says ""Stop"" ."
b.png,A third .
"""
TOKEN = """b.png#0\tA child in a pink dress .
b.png#1\tA dog , wet , shakes
a.png#0\tThe sign says "Stop" .
b.png#2\tA third .
"""
BARS = """image_name| comment_number| comment
b.png| 0| A child in a pink dress .
b.png| 1| A dog , wet , shakes
a.png| 0| The sign says "Stop" .
b.png| 2| A third .
"""
#: Kaggle's Flickr30k: pandas writes what it has read of results.csv.
NUMBERED = """image_name,comment_number,comment
b.png,0, A child in a pink dress .
b.png,1," A dog , wet , shakes"
a.png,0," The sign says ""Stop"" ."
b.png,2, A third .
"""
EXPECTED = {
    "b.png": ("A child in a pink dress .", "A dog , wet , shakes", "A third ."),
    "a.png": ('The sign says "Stop" .',),
}


@pytest.fixture
def folder(tmp_path):
    photographs(tmp_path / "Images", "a.png", "b.png", "c.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", CSV),
        ("Flickr8k.token.txt", TOKEN),
        ("results.csv", BARS),
        ("captions.txt", NUMBERED),
        ("captions.txt", CSV.replace("\n", "\r\n")),
    ],
)
def test_all_say_the_same(name, text, folder):
    (folder / name).write_bytes(text.encode())
    source = flickr(folder / name)
    assert {image.id: image.captions for image in source} == EXPECTED
    assert [image.id for image in source] == ["b.png", "a.png"]  # the file's order
    assert [image.split for image in source] == [None, None]
    assert all(shows(image, image.id) for image in source)


def test_the_captions_without_an_image_are_left_out_and_named(folder, caplog):
    missing = "".join(f"2258277193_586949ec62.jpg.1#{i}\tPeople on ATVs .\n" for i in range(5))
    with caplog.at_level(logging.WARNING):
        source = flickr(write(folder / "Flickr8k.token.txt", TOKEN + missing))
    assert {image.id for image in source} == {"a.png", "b.png"}
    assert "Flickr8k.token.txt: the captions of 2258277193_586949ec62.jpg.1 are left out" in caplog.text
    with pytest.raises(UserError, match=r"d\.png\.1.*'d\.png\.1'"):
        flickr(write(folder / "Flickr8k.token.txt", TOKEN + "d.png.1#0\tAnother .\n"))


def test_the_row_without_a_delimiter_keeps_its_caption(folder):
    photographs(folder / "Images", "2199200615.jpg")
    rows = "2199200615.jpg| 3| A dog running .\n2199200615.jpg| 4   A dog runs across the grass .\n"
    source = flickr(write(folder / "results.csv", BARS + rows))
    assert source[-1].captions == ("A dog running .", "A dog runs across the grass .")
    with pytest.raises(UserError, match=r"results\.csv.*line 2.*IMAGE.*NUMBER.*CAPTION.*\['b\.png'.*0"):
        flickr(write(folder / "results.csv", BARS.replace("0| A child", "0   A child")))


def test_kaggle_flickr30k_skips_images_with_an_empty_caption(folder, caplog):
    """pandas takes "4   A dog ..." for the number of this row, and writes a caption that is missing as nothing."""
    photographs(folder / "Images", "2199200615.jpg")
    rows = "2199200615.jpg, 3, A dog running .\n2199200615.jpg, 4   A dog runs across the grass .,\nc.png,0,\n"
    with caplog.at_level(logging.WARNING):
        source = flickr(write(folder / "captions.txt", NUMBERED + rows))
    assert source[-1].captions == ("A dog running .", "A dog runs across the grass .")
    assert {image.id for image in source} == {"a.png", "b.png", "2199200615.jpg"}
    assert source.skipped == {"c.png": "a caption is empty: ['']"}
    assert "captions.txt: left out 1: a caption is empty (1, the first c.png)" in caplog.text


def test_a_caption_may_hold_what_elsewhere_divides(folder):
    assert flickr(write(folder / "results.csv", BARS + "c.png| 0| A | B |\n"))[-1].captions == ("A | B |",)
    assert flickr(write(folder / "Flickr8k.token.txt", TOKEN + "c.png#0\t#1\tA, B\n"))[-1].captions == ("#1\tA, B",)


def test_the_official_splits_are_read_where_they_are(folder):
    file = write(folder / "Flickr8k.token.txt", TOKEN + "c.png#0\tIn no split .\n")
    write(folder / "Flickr_8k.trainImages.txt", "b.png\n")
    write(folder / "Flickr_8k.devImages.txt", "a.png\n")
    assert {image.id: image.split for image in flickr(file)} == {"b.png": "train", "a.png": "dev", "c.png": None}
    write(folder / "Flickr_8k.testImages.txt", "c.png\nb.png\n")
    with pytest.raises(UserError, match=r"testImages\.txt.*line 2.*'b\.png'"):
        flickr(file)
    write(folder / "Flickr_8k.testImages.txt", "c.png\nd.png\n")
    with pytest.raises(UserError, match=r"testImages\.txt.*line 2.*'d\.png'"):
        flickr(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.txt", "image,caption\nc.png,\n", "a caption is empty"),
        ("captions.txt", CSV + "c.png\n", r"line 6.*IMAGE,CAPTION.*\['c\.png'\]"),
        ("captions.txt", CSV + "c.png,A dog , wet\n", "line 6.*IMAGE,CAPTION"),
        ("Flickr8k.token.txt", TOKEN + "c.png A dog .\n", "line 5.*IMAGE#NUMBER<tab>CAPTION.*'c.png A dog .'"),
        (
            "Flickr8k.token.txt",
            TOKEN + "b.png#1\tAgain .\n",
            "line 5.*caption 1 of b.png.*line 2",
        ),
        ("results.csv", BARS + "c.png| A dog .\n", "line 6.*IMAGE, NUMBER, CAPTION"),
        ("captions.txt", NUMBERED + "c.png,0,A dog , wet .\n", "line 6.*IMAGE, NUMBER, CAPTION"),
        ("captions.txt", NUMBERED + "b.png,2,Again .\n", "line 6.*caption 2 of b.png.*line 5"),
        ("results.csv", BARS + "b.png| 2| Again .\n", "line 6.*caption 2 of b.png.*line 5"),
        ("captions.txt", "Caption,Image\nb.png,A dog\n", "Flickr.*'Caption,Image'"),
        ("captions.txt", "", "Flickr"),
        ("captions.txt", "image,caption\n", "captions"),
    ],
    ids=str,
)
def test_lines_that_do_not_fit_are_named(name, text, message, folder):
    with pytest.raises(UserError, match=rf"{name}.*{message}"):
        flickr(write(folder / name, text))
