"""Small parts of VisDial, NLVR2 and Winoground in the layouts in which they are distributed, with their images."""

from tests.data.readers.question_files import photographs
from tests.data.shelf import write

#: All answers of the dialogues; the right one of round r of a dialogue is number r.
ANSWERS = ("no", "yes", "a dog", "two", "not that I can see", "red")


def visdial_layout(folder, part, count, relevance=(0.0, 1.0, 0.5, 0.0, 0.0, 0.0)):
    """Dialogues of three rounds, of which the second is annotated; those of the training part are not."""
    pattern = "COCO_train2014_{:012}.jpg" if part == "train" else f"VisualDialog_{part}2018_{{:012}}.jpg"
    start = {"train": 10, "val": 100, "test": 200}[part]
    photographs(folder / f"images_{part}", *(pattern.format(start + number) for number in range(count)))
    dialogs, annotations = [], []
    for number in range(count):
        rounds = []
        for position in range(3):
            options = list(range(len(ANSWERS)))
            rounds.append({"question": position, "answer": position, "answer_options": options, "gt_index": position})
        dialogs.append({"image_id": start + number, "caption": f"picture {number} ", "dialog": rounds})
        annotations.append({"image_id": start + number, "round_id": 2, "gt_relevance": list(relevance)})
    data = {"questions": ["is it old", "is it new?", "what is it"], "answers": list(ANSWERS), "dialogs": dialogs}
    if part == "val":
        write(folder / "visdial_1.0_val_dense_annotations.json", _plain(annotations))
    return write(folder / f"visdial_1.0_{part}.json", {"split": part, "version": "1.0", "data": data})


def _plain(content):
    """A list as JSON, which :func:`write` would write as lines."""
    return str(content).replace("'", '"')


def nlvr2_layout(folder, part, count):
    """Two pairs of images for each sentence. The first is as stated, the second not."""
    rows, names = [], []
    for number in range(count):
        pair = f"{part}-{number // 2}-{number % 2}"
        names += [f"{pair}-img0.png", f"{pair}-img1.png"]
        rows.append({"identifier": f"{pair}-0", "sentence": f"There are {number // 2}.", "label": str(number % 2 == 0)})
    photographs(folder / f"images_{part}", *names)
    return write(folder / f"{part}.json", rows)


def winoground_layout(folder, count):
    rows, names = [], []
    for number in range(count):
        stems = [f"ex_{number}_img_0", f"ex_{number}_img_1"]
        names += [f"{stem}.png" for stem in stems]
        row = {"id": number, "image_0": stems[0], "image_1": stems[1], "collapsed_tag": "Object"}
        rows.append(row | {"caption_0": f"{number} dogs on a mat", "caption_1": f"a mat on {number} dogs"})
    photographs(folder / "images", *names)
    return write(folder / "examples.jsonl", rows)
