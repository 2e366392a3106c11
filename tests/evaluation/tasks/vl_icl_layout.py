"""Small copies of the folders of VL-ICL Bench, with the fields of its files."""

import json

from tests.data.readers.question_files import photographs

CLASSES = ("dax", "blicket", "perpo", "slation", "vork")
RESULT = "What is the result of the following mathematical expression?"
MATCH = "Do the two images satisfy the induced relationship?"


def image(root, name):
    """Writes an image, and returns its name relative to the folder of all tasks."""
    photographs((root / name).parent, name.rsplit("/", 1)[1])
    return name


def write_rows(root, name, query, support):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "query.json").write_text(json.dumps(query))
    (folder / "support.json").write_text(json.dumps(support))


def open_mi(root, queries=2):
    rows = []
    for number in range(queries):
        support = {}
        for name in CLASSES:
            images = [image(root, f"open_mi/support/{number}-{name}-{shot}.jpg") for shot in range(5)]
            support[name] = {"images": images, "caption": f"This is a {name}"}
        picture = image(root, f"open_mi/query/{number}.jpg")
        answer = CLASSES[number % 5]
        row = {"image": [picture], "question": "This is a", "answer": answer, "classes": list(CLASSES)}
        rows.append(row | {"support": support})
    write_rows(root, "open_mi", rows, [{"image": ["open_mi/support/0-dax-0.jpg"], "answer": "dax"}])


def matching_mi(root, queries=2, rows=5):
    def pair(name, answer):
        names = [image(root, f"matching_mi/{name}-{side}.jpg") for side in "ab"]
        return {"image": names, "question": MATCH, "answer": answer}

    support = []
    for number in range(rows):
        same, diff = pair(f"support/same{number}", "Yes"), pair(f"support/diff{number}", "No")
        support.append({"same": same, "diff": diff})
    query = [pair(f"query/{number}", "Yes" if number % 2 == 0 else "No") for number in range(queries)]
    write_rows(root, "matching_mi", query, support)


def operator_induction(root, name="operator_induction", support=6):
    """With two images for each expression in the interleaved variant."""

    def images(part, left, right):
        if name.endswith("interleaved"):
            return [image(root, f"{name}/support/{digit}.png") for digit in (left, right)]
        return [image(root, f"{name}/{part}/{left}_{right}.png")]

    candidates = []
    for left in range(support):
        right = (3 * left + 2) % 10
        results = [left + right, left - right, left * right]
        candidates.append({"image": images("support", left, right), "question": RESULT, "answer": results})
    query = []
    for operator, left, right, result in (("+", 2, 7, 9), ("-", 1, 4, -3), ("x", 3, 5, 15)):
        row = {"image": images("query", left, right), "question": RESULT, "answer": result}
        query.append(row | {"operator": operator})
    write_rows(root, name, query, candidates)


def clevr(root, support=6):
    def row(part, number):
        name = image(root, f"clevr/{part}/CLEVR_{number:06}.png")
        return {"image": [name], "question": f"shape: {('cube', 'sphere')[number % 2]}", "answer": number % 4}

    write_rows(root, "clevr", [row("query", n) for n in range(3)], [row("support", n) for n in range(support)])


def textocr(root, support=6):
    def row(part, number):
        name = image(root, f"textocr/{part}/{number:x}a.jpg")
        text = ("STOP", "Inc.", "10")[number % 3]
        fields = {"image": [name], "question": "What text is shown in the red box?", "answer": text}
        return fields | {"image_id": f"{number:x}a", "width": 48, "height": 48, "bbox": [1.0, 2.0, 3.0, 4.0]}

    write_rows(root, "textocr", [row("query", n) for n in range(3)], [row("support", n) for n in range(support)])


def interleaved(root):
    operator_induction(root, "operator_induction_interleaved")


#: Task of conf/task -> the function that writes its folder.
LAYOUTS = {
    "vl_icl_open_mi": open_mi,
    "vl_icl_matching_mi": matching_mi,
    "vl_icl_operator_induction": operator_induction,
    "vl_icl_operator_induction_interleaved": interleaved,
    "vl_icl_clevr": clevr,
    "vl_icl_textocr": textocr,
}
