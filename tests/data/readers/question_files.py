"""Small data sets of questions in the layouts in which they are distributed, with their images."""

import json
import zlib

import numpy as np
from PIL import Image as PILImage

from tests.data.shelf import write

COLOURS = ("red", "green", "blue", "white")


def photographs(folder, *names):
    """Images of which no two are near-duplicates."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        PILImage.fromarray(pixels).resize((48, 48), PILImage.Resampling.NEAREST).save(folder / name)


def _answers(number):
    """Ten answers: the colour of the number eight times, and another one twice."""
    return [COLOURS[number % 4]] * 8 + [f"dark {COLOURS[number % 4]}"] * 2


def coco_layout(folder, prefix, part, count):
    """VQAv2 with the prefix ``v2_``, OK-VQA without a prefix."""
    photographs(folder / part, *(f"COCO_{part}_{number:012}.jpg" for number in range(count)))
    questions, annotations = [], []
    for number in range(count):
        identity = {"question_id": 10 * number, "image_id": number}
        questions.append(identity | {"question": f"What color is {number}?"})
        answers = [{"answer": text, "answer_id": id} for id, text in enumerate(_answers(number), start=1)]
        types = {"question_type": "what color is", "answer_type": "other"}
        annotations.append(identity | types | {"answers": answers})
    write(folder / f"{prefix}mscoco_{part}_annotations.json", {"annotations": annotations})
    return write(folder / f"{prefix}OpenEnded_mscoco_{part}_questions.json", {"questions": questions})


def textvqa_layout(folder, part, count):
    photographs(folder / "train_images", *(f"{part}{number}.jpg" for number in range(count)))
    rows = []
    for number in range(count):
        row = {"question_id": number, "image_id": f"{part}{number}", "question": f"what is {number}?", "set_name": part}
        rows.append(row | {"answers": _answers(number)})
    return write(folder / f"TextVQA_0.5.1_{part}.json", {"data": rows})


def vizwiz_layout(folder, part, count):
    names = [f"VizWiz_{part}_{number:08}.jpg" for number in range(count)]
    photographs(folder / part, *names)
    rows = []
    for number, name in enumerate(names):
        answers = [{"answer": text, "answer_confidence": "yes"} for text in _answers(number)]
        row = {"image": name, "question": f"What is {number}?", "answers": answers}
        rows.append(row | {"answer_type": "other", "answerable": 1})
    file = folder / "annotations" / f"{part}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def rows_layout(folder, part, count):
    names = [f"{part}{number}.png" for number in range(count)]
    photographs(folder, *names)
    rows = []
    for number, name in enumerate(names):
        rows.append({"image": name, "question": f"What is {number}?", "answers": _answers(number)})
    return write(folder / f"{part}.jsonl", rows)


#: Task of conf/task -> the function that writes a part of its data, and the names of its parts.
LAYOUTS = {
    "vqav2": (lambda folder, part, count: coco_layout(folder, "v2_", part, count), "train2014", "val2014"),
    "okvqa": (lambda folder, part, count: coco_layout(folder, "", part, count), "train2014", "val2014"),
    "textvqa": (textvqa_layout, "train", "val"),
    "vizwiz": (vizwiz_layout, "train", "val"),
    "vqa": (rows_layout, "train", "val"),
}
