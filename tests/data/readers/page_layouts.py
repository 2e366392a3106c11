"""A small shard of each layout of pages, as its original writer makes it."""

import json

import pytest
from PIL import Image as PILImage

from tests.data.readers.page_files import (
    converted,
    gpt_sequence,
    mint1t_json,
    mmc4_documents,
    picture,
    tiff,
    web_dataset,
    write_m4,
    write_mmc4,
    write_openflamingo,
)


def mmc4(folder):
    (folder / "aa.jpg").write_bytes(picture(1))
    return write_mmc4(folder, mmc4_documents())


def openflamingo(folder):
    (folder / "cc.jpg").write_bytes(picture(2))
    documents = [converted(document, folder) for document in mmc4_documents()]
    sequence = gpt_sequence("_!_IMAGE1_!_ A dog. _!_IMAGE1_!_", {"_!_IMAGE1_!_": picture(3)})
    return write_openflamingo(folder / "000000000.tar", [*documents, sequence])


def obelics(folder):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    images = [[{"bytes": picture(4, "WEBP"), "path": "a"}, None, {"bytes": None, "path": "b"}], [None]]
    texts = [[None, "one END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED two", None], ["only a text"]]
    table = {"images": pa.array(images, kind), "texts": pa.array(texts, pa.list_(pa.string()))}
    pq.write_table(pa.table(table), folder / "train-0.parquet")
    return folder / "train-0.parquet"


def m4(folder):
    return write_m4(folder / "shard_0.tar", [["a", picture(5), "b"], [picture(6)]])


def mint1t(folder):
    frames = [PILImage.new("RGB", (3, 4), "red"), PILImage.new("L", (5, 6), 7)]
    members = {"json": mint1t_json(["x", None, "y", None], [None, "text", None, "end"]), "tiff": tiff(frames)}
    return web_dataset(folder / "0.tar", {"ef8e": members})


def page_rows(folder):
    (folder / "a.png").write_bytes(picture(8, "PNG"))
    content = [{"type": "image", "image": name} for name in ("../b.png", "file:///c", "a.png")]
    content.insert(2, {"type": "text", "text": "two faults"})
    content.append({"type": "text", "text": "a picture"})
    rows = [{"id": "ä 1", "content": content, "split": "val"}, {"content": [{"type": "text", "text": ""}]}]
    (folder / "pages.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "pages.jsonl"


def html(folder):
    (folder / "a.gif").write_bytes(picture(9, "GIF"))
    (folder / "page.html").write_text("<p>one<p>two<img src=a.gif>after it<img src=http://x/y.png>")
    return folder / "page.html"


def markdown(folder):
    pytest.importorskip("markdown_it")
    (folder / "a.bmp").write_bytes(picture(10, "BMP"))
    (folder / "page.md").write_text("![](a.bmp)\n\ntext")
    return folder / "page.md"


#: Layout -> the function that writes a shard into a folder, and returns its file.
LAYOUTS = {
    "mmc4": mmc4,
    "openflamingo_tar": openflamingo,
    "obelics": obelics,
    "m4": m4,
    "mint1t": mint1t,
    "page_rows": page_rows,
    "html": html,
    "markdown": markdown,
}
