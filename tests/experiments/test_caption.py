"""Captions of a folder: the rows, files that are left out, and a second start."""

import json
import re

import pytest
from PIL import Image as PILImage

from experiments.runs.run_captioning import run_captioning
from flamingo.inference.captioner import Captioner
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.errors import UserError
from tests.experiments.conftest import photograph
from tests.helpers.configs import composed
from tests.helpers.forked import values_of_processes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures in two folders, a broken one, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "b").mkdir()
    for number in range(3):
        photograph(number).save(folder / f"{number}.png")
    for number in (3, 4):
        photograph(number).convert("RGB").save(folder / "b" / f"ä {number}.JPG", "JPEG")
    (folder / "2 broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"no picture")
    return folder


NAMES = ["0.png", "1.png", "2.png", "b/ä 3.JPG", "b/ä 4.JPG"]


@pytest.fixture
def captioning(demo, pictures, tmp_path):
    """Captions into the test's folder, with further keys; returns the rows."""

    def run(*overrides, name="captions"):
        output = tmp_path / f"{name}.jsonl"
        given = (f"checkpoint={demo}", f"images={pictures}", f"output={output}", "max_new_tokens=5", "batch_size=2")
        run_captioning(composed("caption", *given, *overrides))
        return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]

    return run


def test_each_image_has_a_row_with_its_caption_in_order_of_names(captioning, demo, pictures, tmp_path):
    rows = captioning()
    assert [row["image"] for row in rows] == NAMES
    captioner = Captioner.from_pretrained(demo / "checkpoint")
    expected = captioner([pictures / name for name in NAMES], max_new_tokens=5)
    assert [row["caption"] for row in rows] == expected
    skipped = json.loads((tmp_path / "captions.skipped.json").read_text())
    assert list(skipped) == ["2 broken.jpg"] and "2 broken.jpg" in skipped["2 broken.jpg"]


def test_the_contact_sheet_holds_its_images_and_loads_nothing(captioning, tmp_path):
    rows = captioning("sheet_images=4")
    page = (tmp_path / "captions.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == 4
    assert not re.search(r"https?://|<script|<link", page)
    assert "The first 4 of 5 images" in page and "2 broken.jpg" in page
    assert rows[0]["image"] in page and "Output: {caption}" in page


def test_a_killed_captioning_goes_on_where_it_was(captioning, tmp_path, asked):
    captioning()
    output = tmp_path / "captions.jsonl"
    whole = output.read_text(encoding="utf-8")
    assert asked == [2, 1, 2]  # the broken one is of the second batch
    asked.clear()
    lines = whole.splitlines(keepends=True)
    output.write_text("".join(lines[:2]) + lines[2][:9], encoding="utf-8")
    captioning()
    assert output.read_text(encoding="utf-8") == whole
    assert sum(asked) == 3
    asked.clear()
    captioning()
    assert asked == [] and output.read_text(encoding="utf-8") == whole


@pytest.mark.full
def test_sampled_captions_do_not_depend_on_batch_or_kill(captioning, tmp_path):
    sampled = ("temperature=1.5", "seed=3")
    rows = captioning(*sampled, "batch_size=1", name="one")
    assert captioning(*sampled, "batch_size=4", name="four") == rows
    lines = (tmp_path / "one.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "one.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    assert captioning(*sampled, "batch_size=4", name="one") == rows
    assert captioning("temperature=1.5", "seed=4", name="other") != rows


@pytest.mark.full
@pytest.mark.parametrize("sampled", [(), ("temperature=1.5", "seed=3")], ids=["searched", "sampled"])
def test_two_processes_write_the_captions_of_one(captioning, demo, pictures, tmp_path, sampled):
    captioning(*sampled)
    files = {name: (tmp_path / f"captions.{name}").read_text() for name in ("jsonl", "skipped.json", "html")}
    both = tmp_path / "both"
    given = (f"checkpoint={demo}", f"images={pictures}", f"output={both / 'captions.jsonl'}", "max_new_tokens=5")
    config = composed("caption", *given, "batch_size=1", *sampled)
    for _ in range(2):  # from the start, and after a kill
        values_of_processes(2, lambda: run_captioning(config))
        assert {name: (both / f"captions.{name}").read_text() for name in files} == files
        first_line = files["jsonl"].splitlines(keepends=True)[0]
        (both / "captions.jsonl").write_text(first_line)


def test_a_new_image_is_added_and_a_repaired_one_too(captioning, pictures, tmp_path, asked):
    folder = tmp_path / "own"
    folder.mkdir()
    photograph(0).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"no picture")
    captioning(f"images={folder}")
    photograph(1).save(folder / "1.png")
    photograph(2).save(folder / "2.png")
    rows = captioning(f"images={folder}")
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert sum(asked) == 3
    assert json.loads((tmp_path / "captions.skipped.json").read_text()) == {}


def test_demonstrations_and_the_template_stand_before_each_image(captioning, pictures, tmp_path, monkeypatch):
    prompts = []

    def recording(self, documents, *args, **kwargs):
        prompts.extend(documents)
        return ["a caption"] * len(documents)

    monkeypatch.setattr(FlamingoEngine, "generate", recording)
    shown = [{"image": "0.png", "caption": "a dog"}, {"image": "b/ä 3.JPG", "captions": ["a cat", "cats"]}]
    file = pictures / "shown.jsonl"
    file.write_text("\n".join(map(json.dumps, shown)), encoding="utf-8")
    captioning(f"demonstrations={file}", "template='A photo of {caption}'")
    texts = {tuple(text.text for chunk in prompt.chunks() for text in chunk.texts) for prompt in prompts}
    assert texts == {("A photo of a dog", "A photo of a cat", "A photo of")}
    assert [prompt.id for prompt in prompts] == NAMES
    # The width of a picture is its number: the captions of a short training do not tell pictures apart.
    assert [prompt.chunks()[-1].image.frames[0].width for prompt in prompts] == [30, 31, 32, 33, 34]
    page = (tmp_path / "captions.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 7 and "Demonstrations" in page


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["checkpoint=nowhere"], "nowhere"),
        (["images=nowhere"], "nowhere"),
        (["output=captions.json"], r"captions\.json"),
        (["demonstrations=nowhere.jsonl"], r"nowhere\.jsonl"),
        (["max_new_tokens=100000"], "^max_new_tokens=100000: .*tokens.*set a smaller max_new_tokens$"),
        (["num_beams=2", "temperature=1.0"], "num_beams"),
        (["template=caption"], r"\{caption\}"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(captioning, tmp_path, overrides, named):
    with pytest.raises(UserError, match=named):
        captioning(*overrides)
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_other_settings_for_a_file_need_overwrite(captioning, tmp_path):
    before = captioning("num_beams=1")
    with pytest.raises(UserError, match=r"max_new_tokens.*5.*4.*overwrite=true"):
        captioning("num_beams=1", "max_new_tokens=4")
    captioning("num_beams=1", "batch_size=3")
    rows = captioning("num_beams=1", "max_new_tokens=4", "overwrite=true")
    assert [row["image"] for row in rows] == [row["image"] for row in before]


def test_a_folder_without_images_is_refused(captioning, tmp_path):
    (tmp_path / "empty").mkdir()
    PILImage.new("RGB", (4, 4)).save(tmp_path / "empty" / "one.xyz", "PNG")
    with pytest.raises(UserError, match=r"no image.*1 other"):
        captioning(f"images={tmp_path / 'empty'}")
