"""Drawn captioned images and questions in the layouts of COCO and VQAv2, for dry runs."""

import json
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from flamingo.utils.io import write_text

#: Color -> its value, and the captions and answers of its images.
COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220), "gray": (128, 128, 128)}
#: 32 shots need as many images of the other colors: those of the query's color are near-duplicates, which are left out.
NUM_QUERIES, NUM_SUPPORT = 4, 48


def write_tiny_data(folder: Path) -> None:
    """Writes images, dataset_coco.json, and the four files of VQAv2."""
    images: list[dict[str, Any]] = []
    for part, split, number in (("val2014", "test", NUM_QUERIES), ("train2014", "train", NUM_SUPPORT)):
        questions, annotations = [], []
        (folder / part).mkdir(parents=True, exist_ok=True)
        for position in range(number):
            id = position + (1000 if split == "train" else 1)
            color = list(COLORS)[position % len(COLORS)]
            name = f"COCO_{part}_{id:012}.jpg"
            # Each image is as wide as its number says: no two are equal.
            PILImage.new("RGB", (24 + position, 24), COLORS[color]).save(folder / part / name)
            sentences = [{"raw": f"a {color} wall"}, {"raw": f"the wall is {color}"}]
            images.append({"filename": name, "filepath": part, "cocoid": id, "split": split, "sentences": sentences})
            questions.append({"question_id": id, "image_id": id, "question": "What color is the wall?"})
            answers = [{"answer": color, "answer_confidence": "yes", "answer_id": one} for one in range(1, 11)]
            annotation = {"question_id": id, "image_id": id, "answer_type": "other", "question_type": "what color"}
            annotations.append(annotation | {"multiple_choice_answer": color, "answers": answers})
        _write(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", {"questions": questions})
        _write(folder / f"v2_mscoco_{part}_annotations.json", {"annotations": annotations})
    _write(folder / "dataset_coco.json", {"dataset": "coco", "images": images})


def tiny_texts() -> list[str]:
    """Returns texts with the words of the data and of the prompts, to train a tokenizer on."""
    texts = ["Output: Question: What color is the wall? Short answer: Answer: Image: Caption:"]
    texts.append("Instruction: provide an answer to the question. Use the image to answer.\n")
    texts += [f"a {color} wall. the wall is {color}" for color in COLORS]
    return texts * 4


def _write(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content) + "\n")
