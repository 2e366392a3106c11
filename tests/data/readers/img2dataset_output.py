"""Writes the output folders of img2dataset as its writers do: tar files, folders of files, or Parquet with pictures."""

import hashlib
import io
import json
import tarfile
from typing import NamedTuple

from PIL import Image as PILImage


class Row(NamedTuple):
    """A row of the list of URLs. ``value`` is the grey of its picture; None: the download failed."""

    url: str
    caption: str | None
    value: int | None


ROWS = (
    Row("https://a.com/0.jpg", "A\ncat.", 10),
    Row("https://a.com/1.jpg", "never loaded", None),
    Row("https://a.com/2.jpg", None, 20),
    Row("https://a.com/3.jpg", "a dog", 30),
    Row("https://a.com/4.jpg", "a bird", 40),
)


def jpeg(value):
    stream = io.BytesIO()
    PILImage.new("RGB", (8, 6), (value, value, value)).save(stream, "JPEG")
    return stream.getvalue()


def write_output(folder, output_format, rows=ROWS, per_shard=3):
    """Shards of three rows of the list, failed downloads included; the rows are in the order of the downloads."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, first in enumerate(range(0, len(rows), per_shard)):
        samples = [_sample(shard, number, row) for number, row in enumerate(rows[first : first + per_shard])]
        name = f"{shard:05}"
        if output_format == "webdataset":
            _write_tar(folder / f"{name}.tar", samples)
        if output_format == "files":
            _write_files(folder / name, samples)
        _write_table(folder / f"{name}.parquet", samples, with_pictures=output_format == "parquet")
        successes = sum(content is not None for _, content in samples)
        failed = len(samples) - successes
        stats = {
            "count": len(samples),
            "successes": successes,
            "failed_to_download": failed,
            "failed_to_resize": 0,
            "duration": 1.5,
            "start_time": 1.0,
            "end_time": 2.5,
            "status_dict": {"success": successes} | ({"HTTP Error 404: Not Found": failed} if failed else {}),
        }
        (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4))
    return folder


def _sample(shard, number, row):
    """The metadata and the picture of a row."""
    content = None if row.value is None else jpeg(row.value)
    metadata = {
        "caption": row.caption,
        "url": row.url,
        "key": f"{shard:05}{number:04}",
        "status": "failed_to_download" if content is None else "success",
        "error_message": "HTTP Error 404: Not Found" if content is None else None,
        "width": None if content is None else 8,
        "height": None if content is None else 6,
        "original_width": None if content is None else 8,
        "original_height": None if content is None else 6,
        "exif": None if content is None else "{}",
        "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
    }
    return metadata, content


def _files(metadata, content):
    """The files of a sample, in the order of webdataset's TarWriter."""
    text = "" if metadata["caption"] is None else metadata["caption"]
    return {"jpg": content, "json": json.dumps(metadata, indent=4).encode(), "txt": text.encode()}


def _write_tar(file, samples):
    with tarfile.open(file, "w") as archive:
        for metadata, content in samples:
            if content is None:
                continue
            for suffix, part in _files(metadata, content).items():
                info = tarfile.TarInfo(f"{metadata['key']}.{suffix}")
                info.size, info.mode, info.uname, info.gname = len(part), 0o0444, "bigdata", "bigdata"
                archive.addfile(info, io.BytesIO(part))


def _write_files(folder, samples):
    folder.mkdir()
    for metadata, content in samples:
        if content is not None:
            for suffix, part in _files(metadata, content).items():
                (folder / f"{metadata['key']}.{suffix}").write_bytes(part)


def _write_table(file, samples, with_pictures):
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = ("width", "height", "original_width", "original_height")
    fields = [(name, pa.int32() if name in numbers else pa.string()) for name in samples[0][0]]
    rows = [metadata for metadata, _ in samples]
    if with_pictures:
        fields.append(("jpg", pa.binary()))
        rows = [metadata | {"jpg": content} for metadata, content in samples]
    # Its writer flushes every 100 rows; here every 2.
    with pq.ParquetWriter(file, pa.schema(fields)) as writer:
        for first in range(0, len(rows), 2):
            writer.write_table(pa.Table.from_pylist(rows[first : first + 2], pa.schema(fields)))
