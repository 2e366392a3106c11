"""A file of captions: its rows and their order, a second call, and images without a caption."""

import json

import pytest
from PIL import Image as PILImage

from flamingo.data.image_files import find_images
from flamingo.inference.caption_files import caption_files, read_captions
from flamingo.utils.errors import UserError


def save(path, colour="red"):
    path.parent.mkdir(exist_ok=True)
    PILImage.new("RGB", (4, 3), colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Four pictures, a broken one, one whose name is no text, and files that are no pictures."""
    folder = tmp_path / "pictures"
    for name in ("b.png", "a/z.jpg", "c.PNG", "ü.webp"):
        save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    save(folder / "d.png")
    (folder / "d.png").rename(folder / "\udcff.png")
    (folder / "notes.txt").write_text("a dog")
    save(folder / ".hidden.png")
    save(folder / ".git" / "e.png")
    return folder


NAMES = ["a/z.jpg", "b.png", "c.PNG", "ü.webp"]


class Caption:
    """Captions that name the picture, and a record of what was asked together."""

    def __init__(self):
        self.batches = []
        self.saved = 0

    def __call__(self, images):
        assert all(image.frames[0].size == (4, 3) for image in images.values())
        self.batches.append(list(images))
        return [f"this is {name}" for name in images]

    def save(self):
        self.saved += 1


def captioned(folder, output, batch_size=2):
    caption = Caption()
    skipped = caption_files(find_images(str(folder)), output, caption, batch_size, caption.save)
    return caption, skipped


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_rows_follow_the_names_and_broken_files_are_listed(folder, tmp_path, batch_size):
    output = tmp_path / "captions.jsonl"
    caption, skipped = captioned(folder, output, batch_size)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"image": name, "caption": f"this is {name}"} for name in NAMES]
    assert list(skipped) == ["\\udcff.png", "broken.jpg"] and "broken.jpg" in skipped["broken.jpg"]
    assert max(map(len, caption.batches)) <= batch_size and caption.saved == len(caption.batches)
    json.dumps(skipped, ensure_ascii=False).encode()


def test_a_second_call_captions_what_is_missing(folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    captioned(folder, output)
    whole = output.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    output.write_text("".join(lines[:2]) + lines[2][:-1], encoding="utf-8")  # complete but for the end of the line
    caption, _ = captioned(folder, output)
    assert output.read_text(encoding="utf-8") == whole
    assert [name for batch in caption.batches for name in batch] == ["c.PNG", "ü.webp"]
    save(folder / "broken.jpg")
    save(folder / "new.png")
    caption, skipped = captioned(folder, output)
    assert list(read_captions(output)) == [*NAMES, "broken.jpg", "new.png"] and list(skipped) == ["\\udcff.png"]
    assert captioned(folder, output)[0].batches == []


def test_a_file_of_something_else_is_refused(folder, tmp_path):
    output = tmp_path / "captions.jsonl"
    output.write_text('{"image": "b.png"}\n')
    with pytest.raises(UserError, match=r"captions\.jsonl, line 1"):
        captioned(folder, output)


def test_images_are_those_of_a_folder_a_pattern_or_a_file(folder):
    files = find_images(str(folder))
    assert [name for name in files.names if name.isprintable()] == sorted([*NAMES, "broken.jpg"])
    assert files.others == {".txt": 1}
    assert find_images(f"{folder}/*.png").names == ("b.png", "\udcff.png")
    spread = find_images(f"{folder}/**/*.[jp]*g")
    assert spread.folder == folder and "a/z.jpg" in spread.names
    assert find_images(str(folder / "a" / "z.jpg")).names == ("z.jpg",)
    for nothing in (folder / "x.png", f"{folder}/*.gif", folder / "notes.txt"):
        with pytest.raises(UserError, match=r"x\.png|gif|notes"):
            find_images(str(nothing))
