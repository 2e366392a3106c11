"""Writes pages in each layout as its original writer does, and reads them as streams do."""

import base64
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from flamingo.data.pages.page import Page, PageImage, SectionBreak
from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.transforms.pictures import frame_bytes
from flamingo.utils.kinds import import_name


def picture(value: int, kind: str = "JPEG", size: tuple[int, int] = (8, 6), **options) -> bytes:
    """A picture of one grey."""
    stream = io.BytesIO()
    PILImage.new("RGB", size, (value, value, value)).save(stream, kind, **options)
    return stream.getvalue()


def entries_of(format: str, file: Path) -> list:
    """The entries of a shard, as its cached index has them."""
    return json.loads(json.dumps(list(import_name(SHARD_FORMATS[format].entries)(file))))


def read_pages(format: str, file: Path, images=None) -> list:
    """All pages, or captioned images, of a shard."""
    read = import_name(SHARD_FORMATS[format].sample)
    return [read(file, entry, images) for entry in entries_of(format, file)]


def shown(part) -> object:
    """A part as a test states it: a text, None for a break, or the image's name with its bytes or fault."""
    if isinstance(part, SectionBreak):
        return None
    if isinstance(part, PageImage):
        return part.name, part.fault if part.image is None else frame_bytes(part.image.frames[0])
    return part


def contents(page: Page) -> tuple:
    """All that a page has, with the bytes of its pictures."""
    similarity = None if page.similarity is None else page.similarity.tolist()
    return page.id, page.split, list(map(shown, page.parts)), list(map(shown, page.unplaced)), similarity


# ------------------------------------------------------------------------------------- MMC4


def mmc4_document(texts: list[str], names: list[str], similarity: list[list[float]]) -> dict:
    """A document with the fields of ``docs_shard_N_v2.jsonl``."""
    matched = [int(np.argmax(row)) for row in similarity]
    infos = []
    for name, index, row in zip(names, matched, similarity, strict=True):
        infos.append(
            {
                "image_name": name,
                "raw_url": f"https://example.com/{name}",
                "matched_text_index": index,
                "matched_sim": row[index],
                "face_detections": None,
            }
        )
    return {
        "url": "https://example.com/page",
        "text_list": texts,
        "image_info": infos,
        "similarity_matrix": similarity,
        "could_have_url_duplicate": 0,
    }


def mmc4_documents() -> list[dict]:
    """Two pages: three sentences and two images, and one image with blanks in its texts."""
    return [
        mmc4_document(["A cat.", "", "A dög."], ["aa.jpg", "bb.jpg"], [[0.1, 0.2, 0.35], [0.3, -0.1, 0.25]]),
        mmc4_document([" One. "], ["cc.jpg"], [[0.2799999]]),
    ]


def write_mmc4(folder: Path, documents: list[dict], number: int = 7) -> Path:
    """JSON lines, as they are in the archives."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"docs_shard_{number}_v2.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return file


def zipped(file: Path) -> Path:
    """``FILE.zip`` with the file."""
    archive = file.with_name(f"{file.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.write(file, file.name)
    return archive


def converted(document: dict, images: Path) -> dict:
    """A document as OpenFlamingo's ``convert_mmc4_to_wds.py`` extends it."""
    for info in document["image_info"]:
        try:
            image = PILImage.open(images / info["image_name"]).convert("RGB")
        except FileNotFoundError:
            continue
        stream = io.BytesIO()
        image.save(stream, format="JPEG")
        info["image_base64"] = base64.b64encode(stream.getvalue()).decode()
    return document


def gpt_sequence(example: str, pictures: dict[str, bytes]) -> dict:
    """A ChatGPT sequence, in the fields that OpenFlamingo's ``train/data.py`` reads."""
    names = {name: {"base64_image": base64.b64encode(content).decode()} for name, content in pictures.items()}
    return {"is_gpt": True, "example": example, "image_map": names}


def web_dataset(file: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """Key -> suffix -> content, as webdataset's ``TarWriter`` writes them."""
    with file.open("wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for key, members in samples.items():
            for suffix in sorted(members):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mode = len(members[suffix]), 0o0444
                info.uname = info.gname = "bigdata"
                archive.addfile(info, io.BytesIO(members[suffix]))
    return file


def write_openflamingo(file: Path, documents: list[dict]) -> Path:
    """A shard whose keys are hexadecimal numbers, as ``uuid4().hex``."""
    keys = [f"{number:032x}" for number in range(1, len(documents) + 1)]
    return web_dataset(file, {key: {"json": json.dumps(d).encode()} for key, d in zip(keys, documents, strict=True)})


# --------------------------------------------------------------------------------------- M4


def write_m4(file: Path, pages: list[list[str | bytes | None]]) -> Path:
    """Pages as ``create_webdataset_tar.py`` writes them: files in a folder, then ``tar --sort=name -C FOLDER .``.

    None is an image that M4 could not decode: its number is left out.
    """
    folder = file.with_suffix("")
    folder.mkdir()
    for number, page in enumerate(pages):
        names = []
        for place, part in enumerate(page):
            if part is None:
                continue
            name = f"{number}_0b5e-4c.{place}." + ("text.txt" if isinstance(part, str) else "image.jpeg")
            content = part.encode() if isinstance(part, str) else part
            (folder / name).write_bytes(content)
            names.append(name)
        (folder / f"{number}_0b5e-4c.metadata.txt").write_text("\n".join(names))
    with tarfile.open(file, "w") as archive:
        archive.add(folder, ".")
    return file


# ---------------------------------------------------------------------------------- MINT-1T


def tiff(frames: list[PILImage.Image], **options) -> bytes:
    """A TIFF with these frames."""
    stream = io.BytesIO()
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:], **options)
    return stream.getvalue()


def mint1t_json(images: list[str | None], texts: list[str | None]) -> bytes:
    """The JSON of a page, with the fields that the hub shows."""
    metadata = [{"page": 0, "xref": 85, "height": 6, "width": 8, "sha256": "00"} for name in images if name]
    return json.dumps(
        {
            "bff_contained_ngram_count_before_dedupe": 0,
            "image_metadata": metadata,
            "images": images,
            "language_id_whole_page_fasttext": {"en": 0.9},
            "texts": texts,
            "url": "https://example.com/a.pdf",
        }
    ).encode()
