"""CLIPScore and CHAIR stand beside the other scores of a captioning task whose config names their files."""

import json
from dataclasses import replace

import pytest
from PIL import Image as PILImage

from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.protocol import RowScoredTask
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.tasks import CaptioningConfig, ChairConfig
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.model.fingerprints import fingerprint
from flamingo.model.vision_loading import load_vision_model
from flamingo.results import read_scores
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json
from tests.evaluation.fake import TextEngine
from tests.helpers import tiny_clip


class Cats(TextEngine):
    def generate(self, prompts, *args, **kwargs):
        return ["a cat beside a dog"] * len(prompts)


@pytest.fixture
def config(tmp_path):
    """Three images in COCO's layout: a cat, a dog with a cat in a reference, and nothing."""
    pytest.importorskip("inflection")
    images = [{"id": 7 + i, "file_name": f"{i}.png"} for i in range(3)]
    for i, image in enumerate(images):
        PILImage.new("RGB", (20, 20), (80 * i, 30, 200 - 60 * i)).save(tmp_path / image["file_name"])
    texts = ["a cat", "cats and a puppy", "an empty room"]
    captions = [{"image_id": 7 + i, "caption": text} for i, text in enumerate(texts)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    annotations = [{"image_id": 7, "category_id": 1}, {"image_id": 8, "category_id": 2}]
    instances = {"images": images, "categories": categories, "annotations": annotations}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "synonyms.txt").write_text("cat, kitten\ndog, puppy\n")
    (tmp_path / "double_words.txt").write_text("hot dog\n")
    tiny_clip.save(tmp_path / "clip")
    files = {name: str(tmp_path / f"{name}.txt") for name in ("synonyms", "double_words")}
    return CaptioningConfig(
        kind="captioning",
        name="coco",
        query=str(tmp_path / "captions.json"),
        metrics=["CIDEr"],
        clip_score=str(tmp_path / "clip"),
        chair=ChairConfig(instances=str(tmp_path / "instances.json"), **files),
    )


def test_both_are_scored_with_the_other_metrics(config, tmp_path):
    task = Captioning.from_config(config)
    assert isinstance(task, RowScoredTask)
    task.mark_encoder(fingerprint(load_vision_model(config.clip_score)))
    evaluate(Cats(), task, [Setting(0, None)], tmp_path / "out", EvaluationConfig())
    scores = {score.metric: score.value for score in read_scores(tmp_path / "out" / "scores.json")}
    names = ["CIDEr", "CLIPScore_same_encoder", "RefCLIPScore_same_encoder", "CHAIRs-PTB", "CHAIRi-PTB"]
    assert list(scores) == names
    assert scores["CHAIRs-PTB"] == pytest.approx(2 / 3) and scores["CHAIRi-PTB"] == pytest.approx(3 / 6)
    assert 0 <= scores["CLIPScore_same_encoder"] <= 2.5
    rows = {row["metric"]: row for row in read_json(tmp_path / "out" / "scores.json")}
    marked = rows["CLIPScore_same_encoder"]
    assert marked["same_encoder"] is True and marked["encoder"] == config.clip_score
    assert rows["CHAIRi-PTB"]["n"] == 3


def test_without_references_clip_score_and_chair_remain(config, tmp_path):
    content = read_json(tmp_path / "captions.json")
    infos = tmp_path / "image_info_test2014.json"
    infos.write_text(json.dumps({"images": content["images"]}))
    task = Captioning.from_config(replace(config, query=str(infos)))
    evaluate(Cats(), task, [Setting(0, None)], tmp_path / "out", EvaluationConfig())
    scores = {score.metric: score.value for score in read_scores(tmp_path / "out" / "scores.json")}
    assert list(scores) == ["CLIPScore", "CHAIRs-PTB", "CHAIRi-PTB"]
    assert scores["CHAIRs-PTB"] == 1 and scores["CHAIRi-PTB"] == pytest.approx(4 / 6)  # no reference has the cats


def test_chair_without_all_its_files_is_refused():
    with pytest.raises(UserError, match="double_words"):
        ChairConfig(instances="a.json", synonyms="b.txt")


def test_chair_in_another_language_is_refused(config):
    config.language = "de"
    with pytest.raises(UserError, match=r"task\.language.*de"):
        Captioning.from_config(config)
