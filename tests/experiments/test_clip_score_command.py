"""The command adds CLIPScore to existing predictions, and marks scores by the model's own encoder."""

import json

import pytest

from experiments.runs.run_evaluation import run_evaluation
from flamingo.inference.flamingo_engine import FlamingoEngine
from tests.evaluation.fake import model_and_processor
from tests.helpers import tiny_clip
from tests.helpers.configs import composed


@pytest.mark.full
def test_clip_score_needs_no_new_predictions(backbones, shards, tmp_path, monkeypatch):
    model, processor = model_and_processor(backbones)
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    tiny_clip.save(tmp_path / "own", model.vision_model)
    tiny_clip.save(tmp_path / "other")
    common = (
        *("task=flickr8k", f"task.support={shards}/train-*.tar", f"task.query={shards}/dev-*.tar", "task.metrics=[]"),
        *("shots=[0]", "controls=[]", "demonstrations=[random]", "num_beams=[1]", "max_new_tokens=2", "limit=3"),
        *("run=null", f"checkpoint={tmp_path / 'checkpoint'}", f"output={tmp_path / 'scores'}", "text_only=false"),
    )
    run_evaluation(composed("evaluate", *common, "task.metrics=[CIDEr]"))
    predictions = (tmp_path / "scores" / "predictions.jsonl").read_bytes()
    monkeypatch.delattr(FlamingoEngine, "generate")
    for name, same, mark in (("own", True, "_same_encoder"), ("other", False, "")):
        run_evaluation(composed("evaluate", *common, f"task.clip_score={tmp_path / name}"))
        rows = json.loads((tmp_path / "scores" / "scores.json").read_text())
        assert [row["metric"] for row in rows] == [f"CLIPScore{mark}", f"RefCLIPScore{mark}"]
        assert all(row["same_encoder"] is same for row in rows)
    assert (tmp_path / "scores" / "predictions.jsonl").read_bytes() == predictions
