"""Tasks of VL-ICL Bench: prompts as its code writes them, demonstrations by its distribution, scores, broken data."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image as PILImage

from experiments.cli.command import CONF
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Affixes
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.alternating import AlternatingTask, mark_shots_per_class
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.preflight import check_settings
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import FilesTask, Task
from flamingo.evaluation.settings import Setting, make_settings
from flamingo.evaluation.tasks import TASKS
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of
from flamingo.utils.names import picture_path
from tests.evaluation.fake import TextEngine
from tests.evaluation.tasks.vl_icl_layout import CLASSES, LAYOUTS, MATCH, RESULT

OPERATOR = (
    "The image contains two digit numbers and a ? representing the mathematical operator. Induce the mathematical "
    "operator (addition, multiplication, minus) according to the results of the in-context examples and calculate the "
    "result.\n"
)


def config_of(name, root, **values):
    """Returns the task's config from conf/task, with the folder of its data, which is written."""
    LAYOUTS[name](root)
    task = settings_of(name)["task"] | {"root": str(root)} | values
    return TASKS[task["kind"]][0](**task)


def settings_of(name):
    return yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())


def built(name, root, **values):
    return build(config_of(name, root, **values))


def build(config):
    return class_of(TASKS, config.kind).from_config(config)


def prompts(name, root, shots, number=0):
    """Returns the prompt of a query at 0 shots and at some, and the demonstrations."""
    task = built(name, root)
    template = CaptionTemplate(affixes=Affixes(settings_of(name)["prefix"]))
    query = task.queries()[number]
    shown = prompt_examples(task, query, Setting(shots, "random"))
    texts = [render_prompt(build_prompt(query, examples, template=template)) for examples in ([], shown)]
    return *texts, shown


def names_of(example):
    return [Path(image.frames[0]).name for image in example.images]


def test_prompts_of_operator_induction(tmp_path):
    zero, few, shown = prompts("vl_icl_operator_induction", tmp_path, 2, number=2)
    assert zero == f"{OPERATOR}<image>{RESULT}\nAnswer:"
    results = []
    for one in shown:
        left, right = map(int, names_of(one)[0].removesuffix(".png").split("_"))
        results.append(left * right)
    assert few == (
        f"{OPERATOR}<image>{RESULT}\nAnswer: {results[0]}<|endofchunk|>"
        f"<image>{RESULT}\nAnswer: {results[1]}<|endofchunk|>"
        f"<image>{RESULT}\nAnswer:"
    )


def test_prompts_of_two_images_per_expression(tmp_path):
    zero, few, shown = prompts("vl_icl_operator_induction_interleaved", tmp_path, 1, number=1)
    assert zero.endswith(f"for the new query images.\n<image><image>{RESULT}\nAnswer:")
    left, right = (int(name.removesuffix(".png")) for name in names_of(shown[0]))
    result = f"<image><image>{RESULT}\nAnswer: {left - right}<|endofchunk|><image><image>{RESULT}\nAnswer:"
    assert few.endswith(f"images.\n{result}")


def test_prompts_of_open_ended_miniimagenet_alternate_classes(tmp_path):
    zero, few, shown = prompts("vl_icl_open_mi", tmp_path, 4)
    instruction = "Induce the concept from the in-context examples. Answer the question with a single word or phase.\n"
    assert zero == f"{instruction}<image>This is a\nAnswer:"
    first, second = (one.references[0] for one in shown[:2])
    lines = [f"<image>This is a\nAnswer: {name}<|endofchunk|>" for name in (first, second, first, second)]
    assert few == instruction + "".join(lines) + "<image>This is a\nAnswer:"
    assert "dax" in (first, second) and first != second
    expected = [[f"0-{name}-{number}.jpg"] for number in (0, 1) for name in (first, second)]
    assert [names_of(one) for one in shown] == expected


def test_prompts_of_matching_show_a_yes_and_a_no_in_turn(tmp_path):
    zero, few, shown = prompts("vl_icl_matching_mi", tmp_path, 4)
    instruction = (
        "According to the few-shot examples, induce what operation to do and determine the output for the two new "
        'images. Answer with "yes" or "no".\n'
    )
    query = f"<image><image>{MATCH}\nAnswer:"
    assert zero == instruction + query
    assert few == instruction + "".join(f"{query} {answer}<|endofchunk|>" for answer in ("Yes", "No") * 2) + query
    assert [name[:4] for one in shown for name in names_of(one)] == ["same", "same", "diff", "diff"] * 2
    numbers = [one.id.split("/")[1] for one in shown]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]  # both pairs of a row


def test_prompts_of_counting_and_textocr(tmp_path):
    zero, few, _ = prompts("vl_icl_clevr", tmp_path, 1)
    assert zero.endswith("and then calculate the result.\n<image>shape: cube\nAnswer:")
    assert few.endswith("<|endofchunk|><image>shape: cube\nAnswer:")
    zero, few, shown = prompts("vl_icl_textocr", tmp_path, 2)
    asked = "<image>What text is shown in the red box?\nAnswer:"
    assert zero == (
        "An image will be provided where a red box is drawn around the text of interest. Answer with the text inside "
        "the red box. Ensure that the transcription is precise, reflecting the exact characters, including letters, "
        f"numbers, symbols.\n{asked}"
    )
    answers = [one.references[0] for one in shown]
    assert few.endswith(f"\n{asked} {answers[0]}<|endofchunk|>{asked} {answers[1]}<|endofchunk|>{asked}")


def test_other_classes_and_their_order_depend_on_the_seed(tmp_path):
    task = built("vl_icl_open_mi", tmp_path)
    query = task.queries()[0]
    shown = []
    for seed in range(60):
        examples = prompt_examples(task, query, Setting(2, "random", seed=seed))
        shown.append(tuple(one.references[0] for one in examples))
    others = Counter(next(name for name in names if name != "dax") for names in shown)
    assert set(others) == set(CLASSES) - {"dax"} and min(others.values()) >= 6
    assert 15 < sum(names[0] == "dax" for names in shown) < 45
    more = prompt_examples(task, query, Setting(10, "random"))
    assert prompt_examples(task, query, Setting(4, "random")) == more[:4]
    five = built("vl_icl_open_mi", tmp_path, num_ways=5)
    names = [one.references[0] for one in prompt_examples(five, query, Setting(10, "random"))]
    assert set(names[:5]) == set(CLASSES) and names[:5] == names[5:]


def test_rows_of_matching_depend_on_the_seed_and_are_nested(tmp_path):
    task = built("vl_icl_matching_mi", tmp_path)
    query = task.queries()[0]
    of_seeds = set()
    for seed in range(20):
        few = {one.id for one in prompt_examples(task, query, Setting(4, "random", seed=seed))}
        more = {one.id for one in prompt_examples(task, query, Setting(6, "random", seed=seed))}
        assert few < more
        of_seeds.add(frozenset(few))
    assert len(of_seeds) > 5


@pytest.mark.parametrize(("name", "shots"), [("vl_icl_open_mi", 12), ("vl_icl_matching_mi", 12)])
def test_shots_are_a_multiple_of_the_classes_and_limited(tmp_path, name, shots):
    task = built(name, tmp_path)
    assert isinstance(task, AlternatingTask) and isinstance(task, FilesTask) and isinstance(task, Task)
    for wrong in (3, shots):
        with pytest.raises(UserError, match=name):
            check_settings(task, [Setting(wrong, "random")])
    rows = [{"shots": 8}]
    mark_shots_per_class(task, rows)
    assert rows == [{"shots": 8, "shots_per_class": 4}]


def test_open_ended_names_are_scored_also_among_valid_ones(tmp_path):
    task = built("vl_icl_open_mi", tmp_path)
    query = task.queries()[0]
    shown = prompt_examples(task, query, Setting(2, "random"))
    [other] = {one.references[0] for one in shown} - {"dax"}
    right = {"vl_icl_accuracy": 1.0, "valid_name_rate": 1.0, "accuracy_of_valid": 1.0}
    assert task.score(query, shown, " Dax. This") == right
    assert task.score(query, shown, other) == dict.fromkeys(right, 0.0) | {"valid_name_rate": 1.0}
    unshown = next(name for name in CLASSES if name not in ("dax", other))
    for output in (unshown, "a dog"):
        assert task.score(query, shown, output) == {"vl_icl_accuracy": 0.0, "valid_name_rate": 0.0}


def test_results_are_scored_by_operator_and_with_signs(tmp_path):
    task = built("vl_icl_operator_induction", tmp_path)
    plus, minus, times = task.queries()
    assert (plus.references, minus.references, times.references) == (("9",), ("-3",), ("15",))
    scores = {"vl_icl_accuracy": 0.0, "vl_icl_accuracy/operator/-": 0.0, "signed_accuracy": 1.0}
    assert task.score(minus, [], "-3") == scores
    assert task.score(times, [], "It is 15") == {
        "vl_icl_accuracy": 1.0,
        "vl_icl_accuracy/operator/x": 1.0,
        "signed_accuracy": 1.0,
    }


def test_other_answers_are_scored_by_their_task_rules(tmp_path):
    matching = built("vl_icl_matching_mi", tmp_path)
    yes, no = matching.queries()[:2]
    for query, output, right in ((yes, "Yes", 1.0), (yes, "maybe", 0.0), (no, "maybe", 1.0), (no, "yes", 0.0)):
        assert matching.score(query, [], output) == {"vl_icl_accuracy": right}
    counting = built("vl_icl_clevr", tmp_path)
    assert counting.score(counting.queries()[1], [], "1.") == {"vl_icl_accuracy": 1.0}
    assert counting.score(counting.queries()[1], [], "There is 1") == {"vl_icl_accuracy": 0.0}


#: Tasks whose files another task of the test reads in the same way.
SAME_TABLES = ("vl_icl_operator_induction_interleaved", "vl_icl_textocr")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in SAME_TABLES else ()) for name in LAYOUTS]
)
def test_missing_fields_and_images_and_broken_files_are_named(tmp_path, name):
    config = config_of(name, tmp_path)
    folder = tmp_path / config.folder
    for part in ("query", "support"):
        if part == "support" and name == "vl_icl_open_mi":
            continue  # its queries have their support
        file = folder / f"{part}.json"
        rows = json.loads(file.read_text())
        row = rows[1].get("diff", rows[1])
        for field in ("image", "question", "answer"):
            value = row.pop(field)
            file.write_text(json.dumps(rows))
            with pytest.raises(UserError, match=rf"{part}.json\[1\].*'{field}'"):
                build(config)
            row[field] = value
        file.write_text(json.dumps(rows)[:-1])
        with pytest.raises(UserError, match=rf"{part}.json"):
            build(config)
        file.write_text(json.dumps(rows))
        picture = tmp_path / row["image"][-1]
        content = picture.read_bytes()
        picture.write_bytes(content[:100])
        with pytest.raises(UserError, match=picture.name):
            build(config)
        picture.unlink()
        with pytest.raises(UserError, match=rf"json\[\d\].*{picture.name}"):
            build(config)
        picture.write_bytes(content)
    assert build(config).queries()


@pytest.mark.parametrize(
    ("name", "part", "field", "value", "match"),
    [
        ("vl_icl_open_mi", "query", "answer", "zup", "classes"),
        ("vl_icl_open_mi", "query", "classes", ["blicket"], "num_ways"),
        ("vl_icl_open_mi", "query", "support", {}, "support of 'dax'"),
        ("vl_icl_matching_mi", "query", "answer", "perhaps", "Yes or No"),
        ("vl_icl_matching_mi", "support", "same", None, "'same', an object"),
        ("vl_icl_operator_induction", "query", "operator", "/", "operator"),
        ("vl_icl_operator_induction", "support", "answer", [1, 2], "answer"),
        ("vl_icl_clevr", "query", "image", [], "images"),
    ],
)
def test_fields_that_do_not_fit_are_refused(tmp_path, name, part, field, value, match):
    config = config_of(name, tmp_path)
    file = tmp_path / config.folder / f"{part}.json"
    rows = json.loads(file.read_text())
    rows[1][field] = value
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=rf"{part}.json\[1\].*{match}"):
        build(config)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"clever.query\.json"):
        built("vl_icl_clevr", tmp_path, folder="clever")
    with pytest.raises(UserError, match=r"task\.root"):
        build(replace(config_of("vl_icl_clevr", tmp_path), root=str(tmp_path / "absent")))


def test_an_evaluation_records_shots_per_class(tmp_path):
    root, output = tmp_path / "VL-ICL", tmp_path / "out"
    task = built("vl_icl_matching_mi", root)
    controls = settings_of("vl_icl_matching_mi")["controls"]
    config = EvaluationConfig(shots=[0, 4], text_only=False, controls=controls, pictures=1)
    rows = evaluate(TextEngine(), task, make_settings(config, task), output, config)
    recorded = {(row["shots"], row["shots_per_class"]) for row in json.loads((output / "scores.json").read_text())}
    assert recorded == {(0, 0), (4, 2)}
    values = {(row["shots"], row["control"]): row["value"] for row in rows}
    assert values[0, None] == values[4, None] == 0.5  # "x" is never a yes
    assert values[4, "copied_caption"] == 0.5  # the last demonstration is a no
    with PILImage.open(picture_path(output / "pictures", task.name, "query/0")) as picture:
        assert picture.size == (96, 48)  # two images of 48 pixels
