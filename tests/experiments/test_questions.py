"""Question-answer data in their layouts, from the files to the scores."""

import json
from dataclasses import replace

import pytest

from experiments.schema import DataConfig, check_documents
from experiments.setup.build import build_task
from flamingo.data.document import Text
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.settings import make_settings
from flamingo.evaluation.tasks import VqaConfig
from flamingo.utils.errors import UserError
from tests.data.readers.question_files import LAYOUTS
from tests.evaluation.fake import TextEngine
from tests.helpers.configs import composed


class Repeating(TextEngine):
    """Answers with the last word of the last demonstration; without demonstrations with "red"."""

    def generate(self, prompts, *args, **kwargs):
        outputs = []
        for prompt in prompts:
            texts = [part.text for part in prompt.parts if isinstance(part, Text)]
            outputs.append(f" {texts[-2].split()[-1]}\n" if len(texts) > 1 else "red")
        return outputs


def files(task, folder, count=6):
    write, support, query = LAYOUTS[task]
    return write(folder, support, count), write(folder, query, 4)


def evaluation(task, support, query, *overrides):
    name = ["task.name=own"] if task == "vqa" else []
    return composed(
        "evaluate",
        *(f"task={task}", f"task.support={support}", f"task.query={query}", *name),
        *("shots=[0,2]", "demonstrations=[random]", "controls=[copied_caption]", "control_shots=[2]", "num_beams=[1]"),
        *("pictures=0", *overrides),
    )


def run(config, output):
    task = build_task(config.task, open_images=True)
    evaluate(Repeating(), task, make_settings(config, task), output, config)
    return task, json.loads((output / "scores.json").read_text())


@pytest.mark.parametrize("task", LAYOUTS)
def test_each_layout_is_scored_and_has_a_submission(task, tmp_path):
    support, query = files(task, tmp_path)
    built, rows = run(evaluation(task, support, query, "text_only=false"), tmp_path / "out")
    metric = "vqa_accuracy_unstemmed" if task == "okvqa" else "vqa_accuracy"
    values = {(row["shots"], row["control"]): row["value"] for row in rows if row["metric"] == metric}
    assert values[0, None] == pytest.approx(0.25)  # red is right for one of four
    assert values[2, None] == values[2, "copied_caption"]
    [submission] = (tmp_path / "out").glob("submission-*.json")
    answers = json.loads(submission.read_text())
    key = "image" if task == "vizwiz" else "question_id"
    assert [answer[key] for answer in answers] == [record.result_id[1] for record in built.query_records]
    predictions = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    at_2_shots = [row["output"].strip() for row in predictions if (row["shots"], row["control"]) == (2, None)]
    assert [answer["answer"] for answer in answers] == at_2_shots != ["red"] * 4
    types = {row["metric"] for row in rows} - {metric}
    expected = {"okvqa": f"{metric}/question_type/what color is", "textvqa": None, "vqa": None}
    assert types == {expected.get(task, f"{metric}/answer_type/other")} - {None}


#: The key ``format`` of each task's data.
FORMATS = {"vqav2": "vqa", "okvqa": "vqa", "textvqa": "textvqa", "vizwiz": "vizwiz", "vqa": "questions"}


@pytest.mark.parametrize("task", LAYOUTS)
def test_a_broken_file_field_or_image_is_named(task, tmp_path):
    support, query = files(task, tmp_path)
    config = VqaConfig(kind="vqa", name=task, query=str(query), support=str(support), format=FORMATS[task])
    picture = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".jpg", ".png"))
    whole = picture.read_bytes()
    picture.write_bytes(b"no picture")
    with pytest.raises(UserError, match=picture.name):
        build_task(config, open_images=True)
    picture.unlink()
    with pytest.raises(UserError, match=rf"{picture.name}.*broken_images=skip"):
        build_task(config, open_images=True)
    built = build_task(replace(config, broken_images="skip"), open_images=True)
    assert len(built.skipped) == 1 and len(built.support_records) + len(built.query_records) == 9
    picture.write_bytes(whole)
    content = query.read_text()
    for broken in (content.replace('"question":', '"text":', 1), content[:-20]):
        query.write_text(broken)
        with pytest.raises(UserError, match=query.name):
            build_task(config, open_images=True)


def test_documents_of_one_source_are_all_of_questions_or_none():
    entry = {"min_images": 1, "max_images": 1, "batch_size": 1}
    documents = {"asked": entry | {"kind": "questions"}, "shown": entry | {"kind": "interleaved"}}
    with pytest.raises(UserError, match=r"data\.documents\.shown"):
        check_documents(DataConfig(root="somewhere", documents=documents), None)
