"""Documents are shown with the image that each text sees, and counted with what is left out."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments.inspect_data import check_config
from experiments.runs.run_inspection import run_inspection
from flamingo.data.streams.shard_index import open_index
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import picture
from tests.data.shelf import photographs, write
from tests.helpers.configs import composed

SOURCE = "data.documents.streamed.sources.pages"
#: Pages without their pictures.
PAGES = [
    [("image", 40), ("text", "dark"), ("image", 120), ("image", 200), ("text", "light"), ("image", None)],
    [("text", "no image")],
]


def grey(uri):
    """The level of a picture."""
    content = base64.b64decode(uri.partition(",")[2])
    return round(np.asarray(PILImage.open(io.BytesIO(content))).mean())


@pytest.fixture
def pages(tmp_path):
    rows = []
    for number, parts in enumerate(PAGES):
        content = []
        for kind, value in parts:
            if kind == "text":
                content.append({"type": "text", "text": value})
                continue
            content.append({"type": "image", "image": f"{value}.jpg"})
            if value is not None:
                (tmp_path / f"{value}.jpg").write_bytes(picture(value))
        rows.append({"id": f"page {number}", "content": content})
    write(tmp_path / "pages.jsonl", rows)
    open_index(tmp_path / "pages.jsonl", "page_rows", cache=None)
    return tmp_path


def test_pages_are_shown_with_the_image_of_each_text(pages):
    output, report = pages / "page.html", pages / "report.json"
    inspection = run_inspection(
        composed(
            "inspect_data",
            *("data=streamed_pages", f"{SOURCE}.root={pages}", f"{SOURCE}.format=page_rows", f"{SOURCE}.epochs=1"),
            *(f"{SOURCE}.documents.min_tokens=1", f"{SOURCE}.documents.min_image_bytes=0", "data.root=null"),
            *("data.documents.streamed.streams=1", f"page={output}", f"output={report}"),
        )
    )
    [name] = inspection.documents
    inspected = inspection.documents[name]
    assert (inspected.samples, inspected.documents, inspected.images) == (2, 1, 3)
    assert inspected.drops == {"page without images": 1, "image missing": 1}
    [document] = inspected.shown
    assert document.id.startswith("page 0")
    images = [passage for passage in document.passages if passage.is_image]
    assert [image.image for image in images] == [0, 1, 2]
    assert [grey(image.picture) for image in images] == pytest.approx([40, 120, 200], abs=3)
    sees = {word: passage.image for passage in document.passages for word in passage.text.split("<")[0].split()}
    assert (sees["dark"], sees["light"]) == (0, 2)
    counts = json.loads(report.read_text())["documents"]["streamed"]
    assert counts["drops"]["image missing"] == 1 and counts["tokens"] == inspected.tokens > 5
    assert output.read_text().count("data:image/jpeg") == 3


def test_documents_of_captioned_images_are_those_of_a_training(tmp_path):
    names = [f"{number}.png" for number in range(6)]
    photographs(tmp_path, *names)
    write(tmp_path / "mine.jsonl", [{"image": name, "caption": f"Of {name}."} for name in names])
    data = (f"data.root={tmp_path}", "data=images", "data.documents.interleaved.max_images=3", "open_images=false")
    sizes = ("data.documents.interleaved.min_images=3", "counted_samples=4", "shown_documents=2")
    inspection = run_inspection(composed("inspect_data", *data, *sizes))
    assert inspection.summary.num_images == 6
    interleaved = inspection.documents["interleaved"]
    assert (interleaved.samples, interleaved.documents, interleaved.images) == (4, 4, 12)
    assert inspection.documents["pairs"].documents == 4 * 5
    assert len(interleaved.shown) == 2
    for document in interleaved.shown:
        texts = [passage for passage in document.passages if "Of" in passage.text]
        assert [text.image for text in texts] == [0, 1, 2] and all(text.is_trained for text in texts)


@pytest.mark.parametrize(("overrides", "key"), [((), "root"), (("data.root=here", "page=a.html"), "page")])
def test_data_without_documents_need_a_root_and_have_no_page(overrides, key):
    with pytest.raises(UserError, match=rf"\b{key}"):
        check_config(composed("inspect_data", "data.root=null", *overrides))
