"""Captioned images in the layouts of papers' data sets, from the files to the scores."""

import json

import pytest

from experiments.setup.build import build_task
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.settings import make_settings
from tests.data.readers.caption_sets import TEST_SETS, karpathy, nocaps, textcaps, vizwiz
from tests.evaluation.fake import TextEngine
from tests.helpers.configs import composed


class Constant(TextEngine):
    """Captions each image with the first caption of the first."""

    def generate(self, prompts, *args, **kwargs):
        return ["a dog runs on the grass 0" for _ in prompts]


#: Task -> the functions that write the support, and the queries; None: both are in one file.
SETS = {
    "coco": (lambda folder: karpathy(folder), None),
    "flickr30k": (lambda folder: karpathy(folder, "flickr30k"), None),
    "nocaps": (lambda folder: karpathy(folder / "coco"), nocaps),
    "textcaps": (lambda folder: textcaps(folder, "train"), textcaps),
    "vizwiz_captions": (lambda folder: vizwiz(folder, "train"), vizwiz),
}
#: Task -> the numbers of queries and of candidates for demonstrations.
NUMBERS = {"coco": (2, 5), "flickr30k": (2, 5), "nocaps": (6, 5), "textcaps": (6, 6), "vizwiz_captions": (5, 5)}


def sources(name, folder):
    """The arguments of a task whose files lie in a folder."""
    write_support, write_query = SETS[name]
    support = write_support(folder)
    if write_query is None:
        return (f"task={name}", f"task.query={support}")
    return (f"task={name}", f"task.query={write_query(folder)}", f"task.support={support}")


@pytest.mark.parametrize("name", SETS)
def test_each_data_set_is_captioned_at_0_and_4_shots(name, tmp_path):
    config = composed(
        "evaluate",
        *sources(name, tmp_path),
        *("task.metrics=[CIDEr]", "shots=[0,4]", "demonstrations=[random]", "controls=[]", "num_beams=[1]"),
        *("text_only=false", "pictures=0"),
    )
    task = build_task(config.task, open_images=True)
    assert (len(task.queries()), len(task.support_records)) == NUMBERS[name]
    evaluate(Constant(), task, make_settings(config, task), tmp_path / "out", config)
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())
    values = {(row["shots"], row["metric"]): row["value"] for row in rows}
    # No server scores captions of Flickr30k.
    assert (tmp_path / "out" / f"submission-{name}.json").exists() == (name != "flickr30k")
    domains = ("in_domain", "near_domain", "out_domain") if name == "nocaps" else ()
    metrics = ["CIDEr", *(f"CIDEr_{domain}" for domain in domains)]
    assert list(values) == [(shots, metric) for shots in (0, 4) for metric in metrics]
    predictions = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {len(row["demonstration_ids"]) for row in predictions if row["shots"] == 4} == {4}
    if name == "nocaps":  # no image of near-domain shows a dog
        assert values[0, "CIDEr_near_domain"] < min(values[0, "CIDEr_in_domain"], values[0, "CIDEr_out_domain"])
        assert [row["group"] for row in predictions[:3]] == ["in-domain", "near-domain", "out-domain"]


#: Their files have the layout of COCO's.
_LIKE_COCO = [pytest.param(name, marks=pytest.mark.full) for name in ("nocaps", "vizwiz_captions")]


@pytest.mark.parametrize("name", ["coco", "textcaps", *_LIKE_COCO])
def test_a_test_set_without_captions_has_a_submission(name, tmp_path, caplog):
    support = SETS[name][0](tmp_path / "support")
    config = composed(
        "evaluate",
        *(f"task={name}", f"task.query={TEST_SETS[name](tmp_path)}", f"task.support={support}", "shots=[0,4]"),
        *("demonstrations=[random]", "controls=[]", "num_beams=[1]", "text_only=false", "pictures=0"),
    )
    task = build_task(config.task, open_images=True)
    assert "have no captions" in caplog.text
    assert evaluate(Constant(), task, make_settings(config, task), tmp_path / "out", config) == []
    rows = json.loads((tmp_path / "out" / f"submission-{name}.json").read_text())
    ids = [f"{number:016}" for number in range(4)] if name == "textcaps" else [70, 71, 72, 73]
    assert rows == [{"image_id": id, "caption": "a dog runs on the grass 0"} for id in ids]
