"""Labelled images and memes in their layouts, from the files to the scores."""

import json

import pytest

from experiments.setup.build import build_task
from flamingo.data.document import Text
from flamingo.data.readers import READERS
from flamingo.data.recognition import recognised
from flamingo.data.sources import open_source
from flamingo.difference_rows import read_differences
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.settings import make_settings
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.results import read_prediction_rows
from flamingo.utils.errors import UserError
from tests.data.readers.labelled_files import CLASSES, class_folders, memes
from tests.data.readers.question_files import photographs
from tests.data.shelf import write
from tests.evaluation.fake import TextEngine
from tests.helpers.configs import composed

LABELS = tuple(name.replace("_", " ") for name in CLASSES)


class Likes(TextEngine):
    """Ranks the candidates in alphabetical order, the one that the last demonstration shows before all others."""

    def score(self, prompts, candidates, *args, **kwargs):
        scores = []
        for prompt, texts in zip(prompts, candidates, strict=True):
            shown = [part.text for part in prompt.parts if isinstance(part, Text)][:-1]
            sums = [-float(place) for place in range(1, len(texts) + 1)]
            for place, text in enumerate(texts):
                if shown and shown[-1].endswith(text):
                    sums[place] = -0.1
            scores.append(CandidateScores(tuple(texts), (1,) * len(texts), tuple(sums), (0.0,) * len(texts)))
        return scores


def run(output, task, support, query, *overrides):
    name = [] if task == "hateful_memes" else ["task.name=own"]
    config = composed(
        "evaluate",
        *(f"task={task}", f"task.support={support}", f"task.query={query}", *name, "text_only=false", "pictures=0"),
        *("shots=[0,4]", "demonstrations=[random]", "controls=[copied_caption]", "control_shots=[4]", *overrides),
    )
    built = build_task(config.task, open_images=True)
    evaluate(Likes(), built, make_settings(config, built), output, config)
    scores = {}
    for row in json.loads((output / "scores.json").read_text()):
        scores[row["shots"], row["control"], row["metric"]] = row["value"]
    return scores, read_prediction_rows(output / "predictions.jsonl")


def test_class_folders_are_ranked_from_files_to_scores(tmp_path):
    support, query = class_folders(tmp_path / "train", 3), class_folders(tmp_path / "val", 2)
    scores, rows = run(tmp_path / "out", "class_folders", support, query)
    assert scores[0, None, "top1_accuracy"] == pytest.approx(1 / 7)  # always an ant
    assert scores[0, None, "top5_accuracy"] == pytest.approx(5 / 7)
    assert scores[4, None, "top1_accuracy"] == scores[4, "copied_caption", "top1_accuracy"]
    assert (4, "copied_caption", "top5_accuracy") not in scores
    assert rows[0]["prompt"] == "<image>Output:" and rows[0]["query"] == "ant/val-ant-0.png"
    assert [one["text"] for one in rows[0]["ranking"]["candidates"]] == list(LABELS)
    assert {row["references"][0] for row in rows} == set(LABELS)


@pytest.mark.full
def test_class_names_come_from_a_file(tmp_path):
    query = class_folders(tmp_path / "val", 1)
    names = {name: "big cat" if name in ("cat", "tiger") else f"a {name}" for name in CLASSES}
    file = write(tmp_path / "names.json", names | {"absent": "zebra"})
    scores, rows = run(
        tmp_path / "out", "class_folders", query, query, f"task.class_names={file}", "shots=[0]", "controls=[]"
    )
    candidates = [one["text"] for one in rows[0]["ranking"]["candidates"]]
    assert candidates == ["a ant", "a bee", "a dog", "a elk", "a red_fox", "big cat", "zebra"]
    assert rows[5]["references"] == ["a red_fox"]
    assert scores[0, None, "top5_accuracy"] == pytest.approx(5 / 7)  # two classes have the sixth name
    file.write_text(json.dumps({"ant": "an ant"}))
    with pytest.raises(UserError, match=r"class_names.*'bee'"):
        run(tmp_path / "other", "class_folders", query, query, f"task.class_names={file}")
    file.write_text(json.dumps({"ant": 1}))
    with pytest.raises(UserError, match=r"class_names.*'ant'"):
        run(tmp_path / "other", "class_folders", query, query, f"task.class_names={file}")


@pytest.mark.full
def test_any_labelled_images_are_classified(tmp_path):
    photographs(tmp_path, "a.png", "b.png", "c.png")
    file = write(tmp_path / "labels.jsonl", [{"image": f"{name}.png", "caption": name} for name in "abc"])
    scores, _ = run(tmp_path / "out", "classification", file, file, "shots=[0]", "controls=[]")
    assert scores == {(0, None, "top1_accuracy"): pytest.approx(1 / 3)}  # of three classes there is no top 5
    file.write_text(json.dumps({"image": "a.png", "captions": ["a", "b"]}))
    with pytest.raises(UserError, match="one label"):
        run(tmp_path / "other", "classification", file, file)


def test_memes_are_scored_by_the_probability_of_yes(tmp_path):
    support, query = memes(tmp_path, "train", 8), memes(tmp_path, "dev_seen", 6)
    scores, rows = run(tmp_path / "out", "hateful_memes", support, query)
    assert scores[0, None, "roc_auc"] == scores[0, None, "accuracy"] == 0.5
    assert rows[0]["prompt"] == "<image>is an image with: 'text 0' written on it. Is it hateful? Answer:"
    few_shot = [row for row in rows if row["shots"] == 4 and row["control"] is None]
    wins = 0.0
    yes = {row["query"]: row["output"] == "yes" for row in few_shot}
    for hateful in ("101", "103", "105"):
        for other in ("100", "102", "104"):
            wins += (1 + yes[hateful] - yes[other]) / 2
    assert scores[4, None, "roc_auc"] == pytest.approx(wins / 9) == scores[4, "copied_caption", "roc_auc"]
    assert " Answer: no<|endofchunk|>" in few_shot[0]["prompt"] + few_shot[1]["prompt"]


@pytest.mark.full
def test_settings_of_earlier_evaluations_are_compared_by_roc_auc(tmp_path):
    support, query = memes(tmp_path, "train", 8), memes(tmp_path, "dev_seen", 6)
    run(tmp_path / "out", "hateful_memes", support, query, "shots=[0]", "controls=[]")
    run(tmp_path / "out", "hateful_memes", support, query, "shots=[4]", "controls=[]")
    rows = read_differences(tmp_path / "out" / "differences.json")
    assert {row.metric for row in rows} == {"roc_auc"}


@pytest.mark.full
def test_a_test_set_of_memes_has_no_scores(tmp_path):
    support, query = memes(tmp_path, "train", 4), memes(tmp_path, "test_seen", 2)
    query.write_text(query.read_text().replace('"label": 0, ', "").replace('"label": 1, ', ""))
    scores, rows = run(tmp_path / "out", "hateful_memes", support, query, "shots=[0]", "controls=[]")
    assert scores == {} and len(rows) == 2


def test_broken_memes_and_missing_fields_and_images_are_named(tmp_path):
    file = memes(tmp_path, "train", 4)
    assert recognised(file) == "hateful_memes"
    content = file.read_text()
    for old, new in (('"label": 1', '"label": 2'), ('"text"', '"caption"'), ('"id": 101', '"ids": 101')):
        file.write_text(content[: content.index("\n")] + content[content.index("\n") :].replace(old, new, 1))
        with pytest.raises(UserError, match=r"train.jsonl"):
            open_source(str(file), format="hateful_memes", questions=True)
    file.write_text(content[:-20])
    with pytest.raises(UserError, match=r"train.jsonl"):
        open_source(str(file), questions=True)
    file.write_text(content)
    (tmp_path / "img" / "train2.png").unlink()
    with pytest.raises(UserError, match=r"train2.png"):
        open_source(str(file), questions=True)
    assert len(open_source(str(file), questions=True, skips_missing=True)) == 3


def test_class_folders_are_read_by_name_only(tmp_path):
    folder = class_folders(tmp_path / "train", 1)
    assert not READERS["class_folders"].files
    with pytest.raises(UserError, match="formats are"):
        open_source(str(folder))
    records = open_source(str(folder), format="class_folders")
    assert [record.captions for record in records] == [(label,) for label in LABELS]
    assert records[5].id == "red_fox/train-red_fox-0.png" and records[5].split is None
    with pytest.raises(UserError, match="CLASS/NAME"):
        open_source(str(folder / "ant"), format="class_folders")
    (folder / "bee" / "train-bee-0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"train-bee-0.png"):
        run(tmp_path / "out", "class_folders", folder, folder)
