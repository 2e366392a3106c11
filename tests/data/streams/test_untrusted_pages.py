"""Pages with every kind of attack are streamed: nothing is fetched, and each is counted by its reason."""

import json
import socket
import struct
import zlib

import numpy as np
import pytest

from flamingo import FlamingoProcessor
from flamingo.data.builders import WebDocumentConfig
from flamingo.data.builders.web_document import WebDocument
from flamingo.data.drops import BROKEN_IMAGE
from flamingo.data.streams.row_groups import RowGroups, StreamedSource
from flamingo.data.streams.shard_index import open_index
from flamingo.data.streams.shard_order import ShardOrder
from flamingo.data.streams.shard_reader import ShardReader
from flamingo.data.streams.stream_mixture import StreamMixture
from tests.data.readers.page_files import mint1t_json, picture, web_dataset


@pytest.fixture(scope="module")
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


def row_groups(processor, format, file):
    """All pages of a shard in one group."""
    size = len(open_index(file, format, cache=None))
    builder = WebDocument(WebDocumentConfig(max_tokens=32, max_images=2), processor, seed=0)
    order = ShardOrder(np.array([size]), streams=1, group_size=size, window=size, seed=0)
    sources = {"pages": StreamedSource(order, ShardReader([file], format), builder)}
    mixture = StreamMixture({"pages": order}, {"pages": 1.0}, {"pages": 1}, 1, seed=0)
    return RowGroups(sources, mixture, processor, rows=4, pack_to=32, max_images=4)


def bomb():
    """A PNG of 60,000 by 60,000 pixels in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, chunk in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(60_001))), (b"IEND", b"")):
        content += struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk))
    return content


def test_each_attack_is_counted_and_the_good_page_stays(tmp_path, processor, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(picture(1, "PNG"))
    (folder / "good.png").write_bytes(picture(2, "PNG"))
    (folder / "bomb.png").write_bytes(bomb())
    names = ["good.png", "bomb.png", "../outside.png", f"file://{folder}/good.png", "https://example.com/a.png"]
    lines = []
    for name in names:
        content = [{"type": "image", "image": name}, {"type": "text", "text": "a text"}]
        lines.append(json.dumps({"id": name, "content": content}))
    file = folder / "pages.jsonl"
    with file.open("w") as stream:
        stream.write("\n".join(lines) + "\n{")
        stream.seek(50_000_000)
        stream.write("}\n")
    group = row_groups(processor, "page_rows", file)[0]
    assert group.ids == ["good.png"]
    assert group.drops == {
        BROKEN_IMAGE: 1,
        "path outside the data folder": 1,
        "file: URL": 1,
        "remote image": 1,
        "page without images": 3,
        "broken sample: line too long": 1,
    }


def test_a_tiff_of_10_000_frames_costs_its_page_alone(tmp_path, processor):
    directories = [b"\0\0" + struct.pack("<I", 8 + 6 * number) for number in range(1, 10_000)]
    tiff = b"II*\0" + struct.pack("<I", 8) + b"".join(directories) + bytes(6)
    members = {"json": mint1t_json(["x", None], [None, "text"]), "tiff": tiff}
    group = row_groups(processor, "mint1t", web_dataset(tmp_path / "0.tar", {"a": members}))[0]
    assert (group.ids, group.drops) == ([], {"broken sample: too many frames": 1})


def test_scripts_of_a_page_are_no_text(tmp_path, processor):
    (tmp_path / "a.png").write_bytes(picture(2, "PNG"))
    file = tmp_path / "page.html"
    file.write_text("<img src=a.png>seen<script>run()</script><style>p {}</style><!-- comment -->")
    groups = row_groups(processor, "html", file)
    [document] = groups.documents(0)
    assert [part.text for part in document.parts if hasattr(part, "text")] == ["seen"]
    assert groups[0].drops == {}
