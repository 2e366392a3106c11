"""The summary of a source equals counts by hand."""

import pytest

from flamingo.data.data_summary import Quantiles, quantiles, summarize
from flamingo.data.sources import open_source
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, write


@pytest.fixture
def source(tmp_path):
    """Four pictures: two are equal and of different splits, one is broken; one caption is empty."""
    photographs(tmp_path, "a.png", "ba.png", "c.bmp", "e.png")
    (tmp_path / "d.png").write_bytes(b"broken")
    captions = {
        "a.png": ("train", ["A dog.", "A dog."]),
        "ba.png": ("test", ["two words"]),
        "c.bmp": ("train", ["a long caption of six words"]),
        "d.png": (None, ["A dog."]),
        "e.png": ("train", [" "]),
    }
    rows = [{"image": name, "captions": texts, "split": split} for name, (split, texts) in captions.items()]
    return open_source(str(write(tmp_path / "mine.jsonl", rows)))


def test_images_captions_and_splits_are_counted(source):
    summary = summarize(source, count_tokens=lambda caption: 2 * len(caption), open_images=False)
    assert (summary.num_images, summary.num_captions) == (4, 5)
    assert summary.splits == {"train": 2, "test": 1, "no split": 1}
    assert summary.captions_per_image == Quantiles(1, 1, 1, 2, 2)
    assert summary.lengths["words"] == Quantiles(2, 2, 2, 6, 6)
    assert summary.lengths["characters"] == Quantiles(6, 6, 6, 27, 27)
    assert summary.lengths["tokens"] == Quantiles(12, 12, 12, 54, 54)
    assert summary.repeated_captions == {"A dog.": 3}
    assert summary.skipped == {"e.png": "a caption is empty: [' ']"}
    assert summary.pictures is None
    assert summarize(source, open_images=False).lengths.keys() == {"characters", "words"}


def test_sizes_formats_and_duplicates_come_from_opened_images(source, tmp_path):
    summary = summarize(source)
    assert summary.skipped.keys() == {"d.png", "e.png"}
    assert summary.skipped["d.png"].startswith("the picture cannot be opened: ")
    pictures = summary.pictures
    assert (pictures.width, pictures.height) == (Quantiles(4, 4, 4, 4, 4), Quantiles(3, 3, 3, 3, 3))
    assert pictures.formats == {"PNG": 2, "BMP": 1}
    sizes = sorted((tmp_path / name).stat().st_size for name in ("a.png", "ba.png", "c.bmp"))
    assert (pictures.num_bytes.least, pictures.num_bytes.median, pictures.num_bytes.greatest) == tuple(sizes)
    assert pictures.duplicates == [["a.png", "ba.png"]] and pictures.num_across_splits == 1


def test_questions_of_a_test_set_have_no_lengths(tmp_path):
    photographs(tmp_path, "a.png")
    rows = [{"image": "a.png", "question": "What?"}]
    summary = summarize(open_source(str(write(tmp_path / "test.jsonl", rows)), questions=None))
    assert (summary.num_images, summary.num_captions, summary.lengths) == (1, 0, {})


def test_quantiles_are_values_that_occur():
    assert quantiles(range(101)) == Quantiles(0, 5, 50, 95, 100)
    assert quantiles([7]) == Quantiles(7, 7, 7, 7, 7)


def test_a_source_without_any_readable_image_is_an_error(source, tmp_path):
    for path in tmp_path.rglob("*.*"):
        if path.suffix in (".png", ".bmp"):
            path.write_bytes(b"broken")
    with pytest.raises(UserError, match="none of 4 pictures"):
        summarize(source)
