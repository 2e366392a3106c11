"""Labelled images in folders of their classes, and memes with labels, as they are distributed."""

from tests.data.readers.question_files import photographs
from tests.data.shelf import write

CLASSES = ("ant", "bee", "cat", "dog", "elk", "red_fox", "tiger")


def class_folders(folder, count):
    for name in CLASSES:
        photographs(folder / name, *(f"{folder.name}-{name}-{number}.png" for number in range(count)))
    write(folder / CLASSES[0] / "notes.txt", "no image")
    return folder


def memes(folder, part, count):
    names = [f"{part}{number}.png" for number in range(count)]
    photographs(folder / "img", *names)
    rows = []
    for number, name in enumerate(names):
        rows.append({"id": 100 + number, "img": f"img/{name}", "label": number % 2, "text": f"text {number}"})
    return write(folder / f"{part}.jsonl", rows)
