"""Each task of a published data set by its commands: a short training on its layout, an evaluation, and the report."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.runs.run_evaluation import run_evaluation
from tests.data.readers.caption_sets import TEST_SETS, TEXTS, karpathy, nocaps, textcaps, vizwiz
from tests.data.readers.labelled_files import class_folders, memes
from tests.data.readers.question_files import LAYOUTS, photographs
from tests.data.shelf import write
from tests.helpers.configs import composed

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Case:
    """The files of a task, and what is expected of its scores."""

    #: Writes data into a folder. Returns what is trained on, the queries, and the support.
    files: Callable[[Path], tuple[Path, Path, Path]]
    #: ``data`` of the training.
    data: str
    #: Overrides of the training.
    training: tuple[str, ...]
    #: Overrides of the evaluation.
    evaluation: tuple[str, ...]
    metrics: tuple[str, ...]


def one_file(file):
    """The files of data whose splits are in one file."""
    return file, file, file


def own_folder(folder):
    for part, count in (("train", 16), ("test", 2)):
        names = [f"{part}{number}.png" for number in range(count)]
        photographs(folder / part, *names)
        rows = [{"image": name, "caption": TEXTS[number % 5]} for number, name in enumerate(names)]
        write(folder / part / "captions.jsonl", rows)
    return folder / "train", folder / "test", folder / "train"


def labels(folder):
    names = [f"{number}.png" for number in range(16)]
    photographs(folder, *names)
    rows = [{"image": name, "caption": "ant" if number % 2 else "bee"} for number, name in enumerate(names)]
    return write(folder / "train.jsonl", rows), write(folder / "val.jsonl", rows[:4]), folder / "train.jsonl"


def class_files(folder):
    train = class_folders(folder / "train", 3)
    return train, class_folders(folder / "val", 1), train


def meme_files(folder):
    train = memes(folder, "train", 24)
    return train, memes(folder, "dev_seen", 4), train


def question_files(task):
    write_part, support, query = LAYOUTS[task]

    def files(folder):
        train = write_part(folder, support, 24)
        return train, write_part(folder, query, 4), train

    return files


def of_captions(files, *training, evaluation=(), domains=()):
    metrics = ("CIDEr", *(f"CIDEr_{domain}_domain" for domain in domains))
    return Case(files, "images", training, ("task.metrics=[CIDEr]", "num_beams=[1]", *evaluation), metrics)


def of_questions(task, *metrics, evaluation=()):
    return Case(question_files(task), "questions", SPLIT, ("text_only=false", "num_beams=[1]", *evaluation), metrics)


#: The data name no split that is trained on: splits are made.
SPLIT = ("data.split=train", "data.splits.make=true")
OWN_NAME = ("task.name=own",)
ACCURACY, UNSTEMMED = "vqa_accuracy", "vqa_accuracy_unstemmed"
CASES = {
    "captions": of_captions(own_folder, *SPLIT, evaluation=OWN_NAME),
    "coco": of_captions(lambda folder: one_file(karpathy(folder, count=16)), "data.split=train+restval"),
    "flickr30k": of_captions(lambda folder: one_file(karpathy(folder, "flickr30k", 16)), "data.split=train"),
    "nocaps": of_captions(
        lambda folder: (karpathy(folder / "coco", count=16), nocaps(folder), folder / "coco" / "dataset_coco.json"),
        "data.split=train",
        domains=("in", "near", "out"),
    ),
    "textcaps": of_captions(
        lambda folder: (textcaps(folder, "train", 16), textcaps(folder), folder / "TextCaps_0.1_train.json"),
        "data.split=train",
    ),
    "vizwiz_captions": of_captions(
        lambda folder: (vizwiz(folder, "train", 16), vizwiz(folder), folder / "annotations" / "train.json"), *SPLIT
    ),
    "vqa": of_questions("vqa", ACCURACY, evaluation=OWN_NAME),
    "vqav2": of_questions("vqav2", ACCURACY, f"{ACCURACY}/answer_type/other"),
    "okvqa": of_questions("okvqa", UNSTEMMED, f"{UNSTEMMED}/question_type/what color is"),
    "textvqa": of_questions("textvqa", ACCURACY),
    "vizwiz": of_questions("vizwiz", ACCURACY, f"{ACCURACY}/answer_type/other"),
    "hateful_memes": Case(meme_files, "questions", SPLIT, ("text_only=false",), ("accuracy", "roc_auc")),
    "classification": Case(labels, "images", SPLIT, ("text_only=false", *OWN_NAME), ("top1_accuracy",)),
    "class_folders": Case(
        class_files,
        "images",
        (*SPLIT, "data.format=class_folders"),
        ("text_only=false", *OWN_NAME),
        ("top1_accuracy", "top5_accuracy"),
    ),
}

#: Overrides of a training of two steps, by its ``data``.
STEPS = (
    *("experiment=demo", "debug=quick", "tracker=none", "evaluate=[]", "training.sample_every=0"),
    *("training.steps=2", "optimizer.warmup_steps=1", "training.validate_every=0"),
)
DOCUMENTS = {
    "images": (
        *("data.documents.pairs.batch_size=2", "data.documents.pairs.captions_per_image=1"),
        *("data.documents.interleaved.batch_size=2", "data.documents.interleaved.similar_prob=0"),
        *("data.documents.interleaved.min_images=2", "data.documents.interleaved.max_images=2"),
    ),
    "questions": (
        *("data.documents.single.batch_size=2", "data.documents.several.batch_size=2"),
        *("data.documents.several.min_images=2", "data.documents.several.max_images=2"),
    ),
}


def command(name, *arguments):
    line = [sys.executable, "-m", f"experiments.{name}", *arguments]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.full
@pytest.mark.parametrize("task", CASES)
def test_the_commands_train_evaluate_and_report(task, tmp_path):
    case = CASES[task]
    root, query, support = case.files(tmp_path / "data")
    output = tmp_path / "run"
    documents = (*STEPS, *DOCUMENTS[case.data], *case.training)
    command("train", f"data={case.data}", f"data.root={root}", f"output={output}", *documents)
    sources = (f"task={task}", f"task.query={query}", f"task.support={support}")
    settings = ("shots=[0,4]", "demonstrations=[random,rices]", "controls=[]", "max_new_tokens=4", *case.evaluation)
    command("evaluate", f"run={output}", *sources, *settings)
    rows = json.loads((output / "scores.json").read_text())
    assert {row["metric"] for row in rows} == set(case.metrics)
    plain = {(row["shots"], row["demonstrations"]) for row in rows}
    assert plain - {(0, "text_only")} == {(0, None), (4, "random"), (4, "rices")}
    predictions = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert {len(row["demonstration_ids"]) for row in predictions if row["shots"] == 4} == {4}
    if task in TEST_SETS and task != "nocaps":
        assert (output / f"submission-{task}.json").exists()
    if task == "vqav2":  # without a task: the questions that were trained on
        command("evaluate", f"run={output}", "shots=[0]", "controls=[]", "text_only=false")
        assert any(row["task"] != "vqav2" for row in json.loads((output / "scores.json").read_text()))
    command("report", f"run={output}")


@pytest.mark.full
def test_a_test_set_is_captioned_and_not_scored(demo, tmp_path, caplog):
    caplog.set_level("INFO")
    support = karpathy(tmp_path)
    sources = (f"task.query={TEST_SETS['coco'](tmp_path)}", f"task.support={support}")
    settings = ("shots=[0,4]", "num_beams=[1]", "demonstrations=[rices]", "controls=[blind]", "control_shots=[4]")
    output = tmp_path / "out"
    run_evaluation(composed("evaluate", f"run={demo}", f"output={output}", "task=coco", *sources, *settings))
    assert "coco: there is nothing to score" in caplog.text
    assert json.loads((output / "scores.json").read_text()) == []
    assert [row["image_id"] for row in json.loads((output / "submission-coco.json").read_text())] == [70, 71, 72, 73]
