"""Fingerprints: what changes a checksum, and how far copies and other pictures are from a picture."""

import pytest
from PIL import Image as PILImage

from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.evaluation.contamination.fingerprint import fingerprint_of, picture_hash
from flamingo.evaluation.contamination.image_overlap import ImageSearch
from flamingo.utils.errors import UserError
from tests.evaluation.contamination.drawn_pictures import drawn, file_of, resized


def fingerprint(content):
    return fingerprint_of(EmbeddedPicture("picture", content))


def distance(one, other):
    """The number of bits in which two pictures differ."""
    return sum(int(difference).bit_count() for difference in picture_hash(one) ^ picture_hash(other))


def test_equal_pixels_in_another_file_have_another_file_checksum():
    png = fingerprint(file_of(drawn(1), "PNG"))
    other = fingerprint(file_of(drawn(1), "PNG", compress_level=1))
    assert png.file != other.file and png.pixels == other.pixels


def test_the_size_is_part_of_the_pixels():
    wide, high = PILImage.new("RGB", (6, 2), "red"), PILImage.new("RGB", (2, 6), "red")
    assert fingerprint(file_of(wide, "PNG")).pixels != fingerprint(file_of(high, "PNG")).pixels


def test_copies_are_near_and_other_pictures_are_far():
    for number in range(20):
        picture = drawn(number)
        assert distance(picture, resized(picture, 0.5)) <= 24
        assert distance(picture, resized(picture, 2).resize((150, 90))) <= 24
        assert distance(picture, drawn(number + 20)) >= 80


def test_a_flat_picture_has_no_hash():
    assert picture_hash(PILImage.new("RGB", (64, 48), "white")) is None
    noisy = PILImage.effect_noise((64, 48), 2).convert("RGB")
    assert picture_hash(noisy) is None


def test_a_flat_picture_is_found_by_its_checksums_alone():
    search = ImageSearch(max_distance=48)
    white = fingerprint(file_of(PILImage.new("RGB", (64, 48), "white"), "PNG"))
    search.add(white)
    assert search.num_flat == 1
    assert [match.kind for match in search.find(white)] == ["same file"]
    assert search.find(fingerprint(file_of(PILImage.new("RGB", (64, 48), "ivory"), "PNG"))) == []


def test_each_picture_is_found_with_its_surest_kind():
    search = ImageSearch(max_distance=48)
    original = file_of(drawn(1), "PNG")
    # Flat pictures have numbers, but no hash.
    search.add(fingerprint(file_of(PILImage.new("RGB", (64, 48), "white"), "PNG")))
    search.add(fingerprint(file_of(drawn(2), "PNG")))
    search.add(fingerprint(original))
    search.add(fingerprint(original))
    kinds = {}
    for content in (original, file_of(drawn(1), "PNG", compress_level=1), file_of(drawn(1), quality=50)):
        matches = search.find(fingerprint(content))
        assert [match.number for match in matches] == [2, 3]
        kinds[content] = matches[0].kind
    assert list(kinds.values()) == ["same file", "same pixels", "near"]
    assert search.find(fingerprint(file_of(drawn(3), "PNG"))) == []


@pytest.mark.parametrize("differing", [0, 4, 5])
def test_the_largest_distance_is_near(differing):
    one = fingerprint(file_of(drawn(1), "PNG"))
    bits = one.hash.copy()
    bits[3] ^= (1 << differing) - 1
    other = type(one)(b"other", b"other", bits)
    search = ImageSearch(max_distance=4)
    search.add(other)
    assert [match.distance for match in search.find(one)] == ([differing] if differing <= 4 else [])


def test_a_missing_picture_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.png"):
        fingerprint_of(tmp_path / "none.png")
