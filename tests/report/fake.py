"""An invented run with every file that a report reads. A seeded rng makes it realistic and repeatable."""

import json
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

from flamingo.utils.names import picture_path

COLORS = {"red": "#d1493f", "blue": "#3b6fd4", "green": "#3d9b57", "yellow": "#e3b62f"}
SHAPES = ("circle", "square", "triangle")
CONTROLS = ("blind", "shuffled_images", "shuffled_captions", "copied_caption")
#: For each task: what it is scored by, its most shots, and where its curves begin and end.
TASKS = {
    "synthetic_captions": (("exact_match", "attribute_accuracy", "CIDEr", "BLEU-4"), (0, 1, 2, 4, 8), (0.01, 0.62)),
    "synthetic_binding_2way": (("exact_match", "valid_name_rate"), (0, 2, 4, 8), (0.0, 0.81)),
    "synthetic_binding_5way": (("exact_match", "valid_name_rate"), (0, 5, 10, 20), (0.0, 0.55)),
    "synthetic_questions": (("exact_match",), (0, 1, 2, 4, 8), (0.22, 0.9)),
    "flickr8k": (("CIDEr", "BLEU-4"), (0, 4, 8, 16, 32), (0.3, 0.71)),
}


def row(task="synthetic_captions", shots=4, demonstrations="random", control=None, decoding="greedy", seed=0, **rest):
    fields = {"task": task, "shots": shots, "demonstrations": demonstrations, "support": None, "control": control}
    return fields | {"template": None} | {"decoding": decoding, "seed": seed} | rest


def score(metric="exact_match", value=0.5, ci95=(0.4, 0.6), n=200, **setting):
    return row(**setting) | {"metric": metric, "value": value, "ci95": ci95 and list(ci95), "n": n}


def prediction(query="q0", demonstration_ids=(), prompt="<image>Output:", output="", exact=None, **setting):
    fields = {"order": 0, "query": query, "demonstration_ids": list(demonstration_ids)}
    fields |= {"demonstration_answers": ["a blue square"] * len(demonstration_ids), "prompt": prompt}
    fields |= {"output": output, "references": ["a red circle"]}
    return row(**setting) | fields | {"scores": {} if exact is None else {"exact_match": float(exact)}}


def settings(task, seeds=(0, 1, 2)):
    """As an evaluation runs them: curves with several seeds, controls and beams with one."""
    shots = TASKS[task][1]
    yield from (row(task, k, "random" if k else None, seed=seed) for k in shots for seed in seeds)
    yield row(task, 0, "text_only")
    yield from (row(task, shots[-1], control=control) for control in CONTROLS)
    yield from (row(task, k, control="blind") for k in shots[1:-1])
    yield row(task, shots[-1], decoding="beam3")


def scores(rng, tasks):
    rows = []
    for task in tasks:
        metrics, shots, (first, last) = TASKS[task]
        for setting in settings(task):
            progress = math.log1p(setting["shots"]) / math.log1p(shots[-1])
            share = {None: 1.0, "blind": 0.12, "shuffled_images": 0.25, "shuffled_captions": 0.2}
            top = first + (last - first) * progress * share.get(setting["control"], 0.05)
            if setting["demonstrations"] == "text_only":
                top += 0.06
            for i, metric in enumerate(metrics):
                value = min(top * (1, 1.3, 1.6, 0.7)[i] + rng.uniform(0, 0.03), 1.9 if metric == "CIDEr" else 0.96)
                half = 0.03 + 0.02 * rng.random()
                rows.append(setting | {"metric": metric, "value": value, "ci95": [max(value - half, 0), value + half]})
                rows[-1]["n"] = 200
        rows.append(row(task, shots[-1]) | {"metric": f"{metrics[0]}_order_std", "value": 0.013, "n": 5, "ci95": None})
    return rows


def draw(path, color, shape, place):
    picture = Image.new("RGB", (96, 96), "#eef0f3")
    x, y = place
    corners = {"triangle": [(x, y + 40), (x + 20, y), (x + 40, y + 40)]}
    pen = ImageDraw.Draw(picture)
    if shape == "triangle":
        pen.polygon(corners[shape], fill=COLORS[color])
    else:
        (pen.ellipse if shape == "circle" else pen.rectangle)((x, y, x + 40, y + 40), fill=COLORS[color])
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


def scene(rng, folder, task, name):
    color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    draw(picture_path(folder, task, name), color, shape, (rng.randrange(54), rng.randrange(54)))
    return f"a picture of a {color} {shape}."


def predictions(rng, tasks, pictures, queries):
    rows = []
    for task in tasks:
        for number in range(queries):
            query = f"{task}/query-{number:03}"
            truth = scene(rng, pictures, task, query)
            ids = [f"{task}/support-{number:03}-{i}" for i in range(TASKS[task][1][-1])]
            captions = [scene(rng, pictures, task, name) for name in ids]
            for setting in settings(task, seeds=(0, 1)):
                k = setting["shots"]
                prompt = "".join(f"<image>Output: {caption}<|endofchunk|>" for caption in captions[:k])
                right = rng.random() < (k / len(ids) if setting["control"] is None else 0.1)
                output = truth if right else f"a {rng.choice(list(COLORS))} {rng.choice(SHAPES)}"
                rows.append(prediction(query, ids[:k], f"{prompt}<image>Output:", output, right, **setting))
                rows[-1] |= {"references": [truth], "demonstration_answers": captions[:k]}
                if task == "flickr8k":
                    rows[-1]["scores"] = {}
    return rows


def history(rng, records=400, layers=6):
    rows = []
    for i in range(records):
        step, progress = 10 * (i + 1), i / records
        losses = {
            "loss/captions": 0.5 + 2.2 * math.exp(-6 * progress),
            "loss/binding": 0.4 + 1.9 * math.exp(-3 * progress),
        }
        losses = {name: value * rng.uniform(0.92, 1.08) for name, value in losses.items()}
        gates = {}
        for layer in range(layers):
            gates[f"{layer}.attention"] = math.tanh(0.9 * progress * (layer + 1) / layers + 0.02 * rng.random())
            gates[f"{layer}.feedforward"] = math.tanh((0.5 - 0.15 * layer) * progress + 0.02 * rng.random())
        rows.append({"step": step, "loss": sum(losses.values()), **losses, "lr": 1e-3, "gradient_norm": 1.0})
        rows[-1] |= {"gates": gates, "tokens": 4096 * step, "seconds": 1.7 * step}
    return rows


def write_lines(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def write_run(folder: Path, tasks=tuple(TASKS), queries: int = 3, seed: int = 0) -> Path:
    """The whole run, in ``folder``."""
    rng = random.Random(seed)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores(rng, tasks)))
    write_lines(folder / "predictions.jsonl", predictions(rng, tasks, pictures, queries))
    write_lines(folder / "history.jsonl", history(rng))
    (folder / "config.yaml").write_text("model:\n  every: 1\ntraining:\n  steps: 4000\n  note: '<b>&'\n")
    return folder
