"""Malformed data sets for every reader, each with one fault and the expected outcome.

:func:`files` writes them. Two outcomes are right: an ``error``, a UserError that names the file, when the data set is
read or its pictures are opened; or a ``skip``, which leaves out the faulty sample, counts it, and keeps the others.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.data.broken_pictures import broken_pictures, picture


class Malformed(NamedTuple):
    """A data set with a fault."""

    #: What a command is given as ``data.root``: a file, or a folder.
    path: Path
    expected: Literal["error", "skip"]
    #: How many images are kept where one is left out.
    kept: int = 0
    #: What an error names, if not the file itself.
    other: str | None = None

    @property
    def named(self) -> str:
        """What the message of an error has in it."""
        return self.other or self.path.name


def files(folder: Path) -> dict[str, Malformed]:
    """Write all malformed data sets, each into a folder of its own below ``folder``, and return them by name."""
    found: dict[str, Malformed] = {}
    for reader, write_all in _READERS.items():

        def place(fault: str, reader: str = reader) -> Path:
            """A new folder with two photographs, in which a data set with this fault is written."""
            below = folder / f"{reader}-{fault}".replace(" ", "-")
            below.mkdir(parents=True)
            for name in ("a.png", "b.png"):
                (below / name).write_bytes(picture())
            return below

        found |= {f"{reader}: {fault}": malformed for fault, malformed in write_all(place).items()}
    return found


Place = Callable[[str], Path]


#: Nested as no reader expects it: Python's own gives up, and a careless one overflows the stack.
NESTED = "[" * 100_000


def _text_files(
    place: Place, name: str, texts: dict[str, str | bytes], left_out: dict[str, str | bytes]
) -> dict[str, Malformed]:
    """``texts`` are errors; of ``left_out`` one image of two is kept."""
    found = {}
    for fault, text in (texts | left_out).items():
        path = place(fault) / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        found[fault] = Malformed(path, "skip", kept=1) if fault in left_out else Malformed(path, "error")
    pipe = place("a named pipe") / name
    os.mkfifo(pipe)
    link = place("a link to nothing") / name
    link.symlink_to("nowhere")
    return found | {"a named pipe": Malformed(pipe, "error"), "a link to nothing": Malformed(link, "error")}


def _rows(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _jsonl(place: Place) -> dict[str, Malformed]:
    good = {"image": "a.png", "caption": "A dog ."}
    texts: dict[str, str | bytes] = {
        "empty": "",
        "truncated": _rows(good) + '{"image": "b.png", "cap',
        "Latin-1": _rows(good).encode() + '{"image": "b.png", "caption": "ein Hündchen"}'.encode("latin-1"),
        "UTF-16": _rows(good).encode("utf-16"),
        "NUL bytes": _rows(good).encode() + bytes(100),
        "nested": _rows(good) + NESTED,
        "an integer of 10,000 digits": _rows(good) + '{"image": "b.png", "caption": "x", "id": ' + "1" * 10_000 + "}",
        "a row that is a list": _rows(good, ["b.png", "x"]),
        "an image that is a number": _rows(good, {"image": 3, "caption": "x"}),
        "captions that are an object": _rows(good, {"image": "b.png", "captions": {"x": "y"}}),
        "a caption that is null": _rows(good, {"image": "b.png", "caption": None}),
        "captions that hold a number": _rows(good, {"image": "b.png", "captions": ["x", 5]}),
        "a split that is a number": _rows(good, {"image": "b.png", "caption": "x", "split": 1}),
        "an image that is not there": _rows(good, {"image": "c.png", "caption": "x"}),
        "an image with a name of 1,000 letters": _rows(good, {"image": "n" * 1000, "caption": "x"}),
        "an image with a NUL in its name": _rows(good, {"image": "b\0.png", "caption": "x"}),
        "an image twice": _rows(good, good),
        "an unknown field": _rows(good, {"image": "b.png", "caption": "x", "tags": []}),
        "half a character in an id": _rows(good, {"image": "b.png", "caption": "x", "id": "\ud800"}),
    }
    left_out: dict[str, str | bytes] = {
        "an empty caption": _rows(good, {"image": "b.png", "captions": ["x", " \n"]}),
        "no caption": _rows(good, {"image": "b.png", "captions": []}),
        "half a character in a caption": _rows(good, {"image": "b.png", "caption": "\ud83d"}),
    }
    found = _text_files(place, "mine.jsonl", texts, left_out)
    for fault, content in broken_pictures().items():
        below = place(f"a picture that is {fault}")
        (below / "b.png").write_bytes(content)
        path = below / "mine.jsonl"
        path.write_text(_rows(good, {"image": "b.png", "caption": "x"}))
        found[f"a picture that is {fault}"] = Malformed(path, "error", other="b.png")
    return found


def _coco(place: Place) -> dict[str, Malformed]:
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "caption": "A dog ."}, {"image_id": 2, "caption": "A cat ."}],
    }

    def annotated(annotation: Any) -> str:
        return json.dumps({**whole, "annotations": [*whole["annotations"], annotation]})

    texts: dict[str, str | bytes] = {
        "empty": "",
        "truncated": json.dumps(whole)[:-20],
        "nested": '{"images": ' + NESTED,
        "images that are an object": json.dumps({**whole, "images": {"1": "a.png"}}),
        "an image without a name": json.dumps({**whole, "images": [*whole["images"], {"id": 3}]}),
        "an image twice": json.dumps({**whole, "images": [*whole["images"], {"id": 1, "file_name": "b.png"}]}),
        "a caption of an image that is not listed": annotated({"image_id": 9, "caption": "x"}),
        "a caption that is null": annotated({"image_id": 1, "caption": None}),
    }
    left_out: dict[str, str | bytes] = {
        "an image without captions": json.dumps({**whole, "annotations": whole["annotations"][:1]}),
        "an empty caption": annotated({"image_id": 2, "caption": ""}),
    }
    return _text_files(place, "captions_val.json", texts, left_out)


def _karpathy(place: Place) -> dict[str, Malformed]:
    said = [{"raw": "A dog ."}]
    good = {"filename": "a.png", "split": "train", "sentences": said}

    def listed(image: Any) -> str:
        return json.dumps({"images": [good, image], "dataset": "flickr8k"})

    texts: dict[str, str | bytes] = {
        "truncated": listed(good)[:-30],
        "an image that is null": listed(None),
        "a file name that is null": listed({**good, "filename": None}),
        "sentences that are a text": listed({**good, "filename": "b.png", "sentences": "A dog ."}),
        "a sentence that is a number": listed({**good, "filename": "b.png", "sentences": [{"raw": 5}]}),
        "a split that is a list": listed({**good, "filename": "b.png", "split": ["train"]}),
    }
    left_out: dict[str, str | bytes] = {
        "sentences that are null": listed({**good, "filename": "b.png", "sentences": None}),
        "an empty sentence": listed({**good, "filename": "b.png", "sentences": [*said, {"raw": ""}]}),
    }
    return _text_files(place, "dataset_flickr8k.json", texts, left_out)


def _flickr(place: Place) -> dict[str, Malformed]:
    head = "image,caption\na.png,A dog .\n"
    tables: dict[str, str | bytes] = {
        "a header alone": "image,caption\n",
        "a quote that never ends": head + 'b.png,"A cat\n',
        "a quote within a cell": head + 'b.png,"A" cat\n',
        "a cell too many": head + "b.png,A cat , wet\n",
        "a cell too few": head + "b.png\n",
        "Latin-1": (head + "b.png,Ein Kätzchen\n").encode("latin-1"),
        "NUL bytes": (head + "b\0.png,A cat\n").encode(),
        "a split of an image without captions": head,
    }
    left_out: dict[str, str | bytes] = {"an empty caption": head + "b.png,\n"}
    found = _text_files(place, "captions.txt", tables, left_out)
    path = found["a split of an image without captions"].path
    path.with_name("Flickr_8k.trainImages.txt").write_text("b.png\n")
    found["a split of an image without captions"] = Malformed(path, "error", other="Flickr_8k.trainImages.txt")
    second = {"a token line without a tab": "b.png#0 A cat .", "a caption number twice": "a.png#0\tA cat ."}
    for fault, line in second.items():
        path = place(fault) / "Flickr8k.token.txt"
        path.write_text(f"a.png#0\tA dog .\n{line}\n")
        found[fault] = Malformed(path, "error")
    return found


def _image_folder(place: Place) -> dict[str, Malformed]:
    head = "file_name,text\na.png,A dog .\n"
    texts: dict[str, str | bytes] = {
        "empty": "",
        "a row too short": head + "b.png\n",
        "no column of captions": "file_name,label\na.png,dog\n",
        "no column of names": "name,text\na.png,A dog .\n",
        "an empty name": head + ",A cat .\n",
        "a folder as an image": head + ".,A cat .\n",
    }
    found = _text_files(place, "metadata.csv", texts, {"an empty caption": head + "b.png,\n"})
    found["empty"] = Malformed(found["empty"].path, "error", other="image_folder-empty")  # the folder
    return found


def _tar(place: Place) -> dict[str, Malformed]:
    good = [("a.png", picture()), ("a.txt", b"A dog ."), ("b.png", picture()), ("b.txt", b"A cat .")]
    whole = _archive(good)
    body = _without_end(whole)
    bad = [("x.png", picture())]
    errors = {
        "empty": b"",
        "text": b"no archive " * 200,
        "zeros alone": bytes(10_240),
        "gzip": gzip.compress(whole),
        "bzip2": bz2.compress(whole),
        "xz": lzma.compress(whole),
        "two members of one name": _archive([*good, ("b.png", picture())]),
        "no captions": _archive([("a.png", picture()), ("b.png", picture())]),
    }
    left_out = {
        "without a caption": _archive(good + bad),
        "with an empty caption": _archive([*good, *bad, ("x.txt", b" \n")]),
        "with a caption in Latin-1": _archive([*good, *bad, ("x.txt", "Hündchen".encode("latin-1"))]),
        "with JSON that is truncated": _archive([*good, *bad, ("x.json", b'{"caption": "x')]),
        "with JSON that is nested": _archive([*good, *bad, ("x.json", NESTED.encode())]),
        "with JSON that is a list": _archive([*good, *bad, ("x.json", b'["x"]')]),
        "with a caption that is a number": _archive([*good, *bad, ("x.json", b'{"caption": 5}')]),
        "with captions that hold null": _archive([*good, *bad, ("x.json", b'{"captions": ["x", null]}')]),
        "with half a character": _archive([*good, *bad, ("x.json", b'{"caption": "\\ud800"}')]),
        "with a split that is a number": _archive([*good, *bad, ("x.json", b'{"caption": "x", "split": 1}')]),
        "with two pictures": _archive([*good, *bad, ("x.jpg", picture("JPEG")), ("x.txt", b"x")]),
        "with a name in Latin-1": _archive([*good, ("\udce9.png", picture()), ("\udce9.txt", b"x")]),
        "with a damaged header": body + b"\xff" * 600,
        "and then half an archive": whole + _archive([("x.png", picture()), ("x.txt", b"x")])[:1000],
        "and then no archive": whole + b"no archive " * 200,
        "with a member of 2**40 bytes": _header("x.png", size=2**40, before=body),
        "with a name of 2**70 bytes": _header("x", tarfile.GNUTYPE_LONGNAME, size=2**70, before=body),
        "with a link": _header("x.png", tarfile.SYMTYPE, "/etc/passwd", before=body, behind=("x.txt", b"x")),
        "with a hard link": _header("x.png", tarfile.LNKTYPE, "a.png", before=body, behind=("x.txt", b"x")),
        "with a device": _header("x.png", tarfile.CHRTYPE, before=body, behind=("x.txt", b"x")),
        "with a named pipe": _header("x.png", tarfile.FIFOTYPE, before=body, behind=("x.txt", b"x")),
        "with a link under an absolute name": _header(
            "/etc/x.png", tarfile.SYMTYPE, "/etc/passwd", before=body, behind=("/etc/x.txt", b"x")
        ),
    }
    for fault, content in broken_pictures().items():
        left_out[f"with a picture that is {fault}"] = _archive([*good, ("x.png", content), ("x.txt", b"x")])
    found = {}
    for fault, content in (errors | left_out).items():
        path = place(fault) / "train-000000.tar"
        path.write_bytes(content)
        found[fault] = Malformed(path, "error") if fault in errors else Malformed(path, "skip", kept=2)
    for fault, more in {"its last header": 100, "its last picture": 700, "nothing behind it": 0}.items():
        path = place(f"cut off with {fault}") / "train-000000.tar"
        path.write_bytes(_archive([*good, *bad])[: len(body) + more])
        found[f"cut off with {fault}"] = Malformed(path, "skip", kept=2)
    pipe = place("a named pipe") / "train-000000.tar"
    os.mkfifo(pipe)
    return found | {"a named pipe": Malformed(pipe, "error")}


def _archive(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _without_end(archive: bytes) -> bytes:
    """An archive's members alone, without the blocks of zeros that end it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        last = opened.getmembers()[-1]
    return archive[: last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE]


def _header(
    name: str,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    size: int = 0,
    before: bytes = b"",
    behind: tuple[str, bytes] | None = None,
) -> bytes:
    """An archive, the header of a member of this kind, and another member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return before + info.tobuf(tarfile.GNU_FORMAT) + (_archive([behind]) if behind else bytes(1024))


def _parquet(place: Place) -> dict[str, Malformed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [picture(), picture(), picture()]

    def table(**columns: Any) -> bytes:
        stream = io.BytesIO()
        pq.write_table(pa.table({"image": cells, "caption": ["x", "y", "z"]} | columns), stream)
        return stream.getvalue()

    whole = table()
    errors = {
        "empty": b"",
        "text": b"no parquet " * 200,
        "truncated": whole[: len(whole) // 2],
        "a footer of 0xff": whole[:-60] + b"\xff" * 52 + whole[-8:],
        "images that are numbers": table(image=[1, 2, 3]),
        "images that are texts": table(image=["a.png", "b.png", "c.png"]),
        "images that are structs of texts": table(image=[{"bytes": "x"}] * 3),
        "captions that are numbers": table(caption=[1, 2, 3]),
        "captions that are structs": table(caption=[{"text": "x"}] * 3),
        "two columns of captions": table(text=["x", "y", "z"]),
        "an id twice": table(id=["k", "l", "k"]),
        "splits that are numbers": table(split=[0, 1, 2]),
    }
    left_out = {
        "a caption that is null": table(caption=["x", "y", None]),
        "an empty caption": table(caption=["x", "y", " "]),
        "no captions": table(caption=[["x"], ["y"], []]),
        "a picture that is null": table(image=[*cells[:2], None]),
        "a struct without bytes": table(image=[{"bytes": cell, "path": None} for cell in (*cells[:2], None)]),
    }
    for fault, content in broken_pictures().items():
        left_out[f"a picture that is {fault}"] = table(image=[*cells[:2], content])
    found = {}
    for fault, content in (errors | left_out).items():
        path = place(fault) / "train-00000-of-00001.parquet"
        path.write_bytes(content)
        found[fault] = Malformed(path, "error") if fault in errors else Malformed(path, "skip", kept=2)
    pipe = place("a named pipe") / "train-00000-of-00001.parquet"
    os.mkfifo(pipe)
    return found | {"a named pipe": Malformed(pipe, "error")}


_READERS: dict[str, Callable[[Place], dict[str, Malformed]]] = {
    "jsonl": _jsonl,
    "coco": _coco,
    "karpathy": _karpathy,
    "flickr": _flickr,
    "image_folder": _image_folder,
    "tar": _tar,
    "parquet": _parquet,
}
