"""The command evaluates with demonstrations by each similarity, and keeps a dual encoder's vectors."""

import json

import pytest
import yaml

from experiments.runs.run_evaluation import run_evaluation
from flamingo.inference import vector_store
from flamingo.utils.errors import UserError
from tests.data.readers.question_files import LAYOUTS
from tests.evaluation.fake import model_and_processor
from tests.helpers import tiny_clip
from tests.helpers.configs import composed

SETTINGS = ("shots=[0,2]", "controls=[]", "num_beams=[1]", "max_new_tokens=2", "text_only=false", "pictures=0")


@pytest.fixture
def checkpoint(backbones, tmp_path):
    model, processor = model_and_processor(backbones)
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return (f"checkpoint={tmp_path / 'checkpoint'}", f"output={tmp_path / 'scores'}", "run=null", *SETTINGS)


def shown(folder):
    """Query -> its demonstrations, for each selection."""
    of_selections: dict = {}
    for line in (folder / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["shots"]:
            of_selections.setdefault(row["demonstrations"], {})[row["query"]] = row["demonstration_ids"]
    return of_selections


@pytest.mark.full
def test_questions_are_answered_after_similar_ones(checkpoint, tmp_path):
    pytest.importorskip("sklearn")
    write, support, query = LAYOUTS["vqav2"]
    files = (f"task.support={write(tmp_path, support, 12)}", f"task.query={write(tmp_path, query, 4)}")
    names = ["random", "rices", "rices_question", "rices_sum"]
    run_evaluation(composed("evaluate", "task=vqav2", *files, *checkpoint, f"demonstrations=[{','.join(names)}]"))
    found = shown(tmp_path / "scores")
    assert list(found) == names and all(len(ids) == 2 for one in found.values() for ids in one.values())
    assert found["rices_question"] != found["rices"]
    recorded = yaml.safe_load((tmp_path / "scores" / "evaluate-vqav2.yaml").read_text())
    assert recorded["contents"]["rices"] == {name: {"tf_idf": "en"} for name in names[2:]}
    # A dual encoder's questions would be other demonstrations under the same name.
    tiny_clip.save(tmp_path / "clip")
    other = (*checkpoint, "demonstrations=[rices_question]", f"rices_encoder={tmp_path / 'clip'}")
    with pytest.raises(UserError, match=r"rices_question .*rices_encoder.*overwrite=true"):
        run_evaluation(composed("evaluate", "task=vqav2", *files, *other))
    elsewhere = [key.replace("/scores", "/other") for key in other]
    run_evaluation(composed("evaluate", "task=vqav2", *files, *elsewhere))
    assert shown(tmp_path / "other")["rices_question"].keys() == found["rices"].keys()


@pytest.mark.full
def test_images_are_captioned_after_similar_captions(checkpoint, shards, tmp_path, monkeypatch):
    tiny_clip.save(tmp_path / "clip")
    common = ("task=flickr8k", f"task.support={shards}/train-*.tar", f"task.query={shards}/dev-*.tar", *checkpoint)
    common += ("task.metrics=[CIDEr]",)
    by_captions = ("demonstrations=[rices_caption,rices_sum]", f"rices_encoder={tmp_path / 'clip'}")
    run_evaluation(composed("evaluate", *common, *by_captions))
    first = shown(tmp_path / "scores")
    assert list(first) == ["rices_caption", "rices_sum"] and first["rices_caption"] != first["rices_sum"]
    # Other settings are added without the dual encoder, and the record of it stays.
    run_evaluation(composed("evaluate", *common, "demonstrations=[random,rices]"))
    assert list(shown(tmp_path / "scores")) == ["rices_caption", "rices_sum", "random", "rices"]
    recorded = yaml.safe_load((tmp_path / "scores" / "evaluate-flickr8k.yaml").read_text())
    assert recorded["contents"]["rices"]["rices_sum"]["encoder"] == str(tmp_path / "clip")
    monkeypatch.setattr(vector_store, "DualEncoder", None)
    run_evaluation(composed("evaluate", *common, *by_captions))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert {row["demonstrations"] for row in scores} == {None, *shown(tmp_path / "scores")}
