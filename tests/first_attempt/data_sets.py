"""Five typical data sets of users: COCO's JSON, Chinese rows, 12 images, Parquet of the hub, text files."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "black": "黑色", "yellow": "黄色"}
SHAPES = {"circle": "圆形", "square": "方块"}
#: Width and height of the pictures, in turn.
SIZES = ((640, 480), (480, 640), (320, 240), (300, 300))


def picture(number: int) -> PILImage.Image:
    """Returns a picture of one shape on a noisy ground."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    ground = rng.integers(150, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    image = PILImage.fromarray(ground).resize((width, height), PILImage.Resampling.BICUBIC)
    side = min(width, height) // 2
    left, top = int(rng.integers(width - side)), int(rng.integers(height - side))
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if shape_of(number) == "circle" else draw.rectangle
    shape((left, top, left + side, top + side), fill=colour_of(number))
    return image


def colour_of(number: int) -> str:
    return list(COLOURS)[number % len(COLOURS)]


def shape_of(number: int) -> str:
    return list(SHAPES)[number % len(SHAPES)]


def captions(number: int) -> list[str]:
    """Returns two English captions of a picture."""
    colour, shape = colour_of(number), shape_of(number)
    return [f"A {colour} {shape} on a bright ground.", f"There is one {shape}; it is {colour}."]


def coco(folder: Path) -> None:
    """COCO's JSON next to the folder of its images, whose sizes are mixed."""
    images, annotations = [], []
    (folder / "images").mkdir()
    for number in range(40):
        name = f"{number:012}.jpg"
        picture(number).save(folder / "images" / name)
        images.append({"id": number, "file_name": name})
        for caption in captions(number):
            annotations.append({"id": len(annotations), "image_id": number, "caption": caption})
    write_json(folder / "captions_own.json", {"images": images, "annotations": annotations})


def chinese(folder: Path) -> None:
    """Rows of JSON with a Chinese caption each."""
    rows = []
    for number in range(30):
        picture(number).save(folder / f"{number}.png")
        caption = f"明亮的背景上有一个{COLOURS[colour_of(number)]}的{SHAPES[shape_of(number)]}。"
        rows.append(json.dumps({"image": f"{number}.png", "caption": caption}, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n".join(rows), encoding="utf-8")


def twelve(folder: Path) -> None:
    """Twelve photographs, with rows of captions."""
    rows = []
    for number in range(12):
        picture(number).save(folder / f"IMG_{number}.JPG")
        rows.append(json.dumps({"image": f"IMG_{number}.JPG", "captions": captions(number)}))
    (folder / "captions.jsonl").write_text("\n".join(rows), encoding="utf-8")


def hub(folder: Path) -> None:
    """Shards of parquet below data/, with a split in their names, as data sets on the hub have them."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir()
    for split, numbers in (("train", range(30)), ("validation", range(30, 36))):
        rows = []
        for number in numbers:
            content = io.BytesIO()
            picture(number).save(content, "JPEG")
            rows.append({"image": {"bytes": content.getvalue(), "path": None}, "caption": captions(number)[0]})
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def texts(folder: Path) -> None:
    """A text file next to each image."""
    for number in range(30):
        picture(number).save(folder / f"{number:03}.jpg")
        (folder / f"{number:03}.txt").write_text(captions(number)[0], encoding="utf-8")


def new_images(folder: Path) -> None:
    """Images without captions, in several formats."""
    for number, suffix in enumerate((".jpg", ".png", ".webp", ".JPEG"), start=100):
        picture(number).save(folder / f"{number}{suffix}")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


#: Writes each data set into an empty folder.
DATA_SETS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "chinese": chinese,
    "twelve": twelve,
    "hub": hub,
    "texts": texts,
}
