"""Image-text retrieval by the command, on tiny models."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from experiments.runs.run_retrieval import run_retrieval
from flamingo.inference.captioner import Captioner
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.errors import UserError
from tests.evaluation.fake import model_and_processor
from tests.helpers import tiny_clip
from tests.helpers.configs import composed, problems
from tests.helpers.forked import values_of_processes

CAPTIONS = ("a red thing", "the dog", "a red thing", "two cats")
COLOURS = ("red", "brown", "darkred", "grey")


@pytest.fixture(scope="module")
def models(backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model, processor = model_and_processor(backbones)
    for parameter in model.fusion.parameters():  # open gates: images change captions
        parameter.data.normal_(std=0.3)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    tiny_clip.save(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for number, (colour, caption) in enumerate(zip(COLOURS, CAPTIONS, strict=True)):
        PILImage.new("RGB", (30, 20 + number), colour).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": [caption, "another"]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def retrieve(models, pairs, tmp_path):
    """Runs the command into the test's folder, and returns the recall by method, direction and k."""

    def run(*overrides):
        given = (f"pairs={pairs}/captions.jsonl", f"output={tmp_path}", "captions_per_image=1", "training_split=null")
        given += ("max_new_tokens=4", "num_beams=1", "batch_size=3", "encoder=null")
        rows = json.loads(run_retrieval(composed("retrieve", *given, *overrides)).read_text())
        return {(row["method"], row["direction"], row["k"]): row["recall"] for row in rows}

    return run


@pytest.mark.full
def test_all_methods_compare_the_same_images_and_captions(retrieve, models, pairs, tmp_path, monkeypatch):
    checkpoint = f"checkpoint={models}/checkpoint"
    methods = ("dual_encoder", "captions", "likelihood", "reranked")
    recall = retrieve(f"methods=[{','.join(methods)}]", f"encoder={models}/clip", checkpoint)
    assert recall.keys() == {(m, d, k) for m in methods for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    assert all(recall[key] == 1 for key in recall if key[2] > 1)  # there are four images

    clip = tiny_clip.CLIPModel.from_pretrained(models / "clip")
    pictures = [PILImage.open(pairs / f"{number}.png") for number in range(4)]
    cosines, _ = tiny_clip.cosines(clip, models / "clip", pictures, list(CAPTIONS))
    right = torch.tensor([[one == other for other in CAPTIONS] for one in CAPTIONS])
    found = right[torch.arange(4), cosines.argmax(dim=1)].double().mean()
    assert recall["dual_encoder", "image_to_text", 1] == pytest.approx(found.item())

    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    files = [pairs / row["image"] for row in rows]
    captioner = Captioner.from_pretrained(models / "checkpoint")
    assert [row["caption"] for row in rows] == captioner(files, max_new_tokens=4, num_beams=1)
    likelihoods = np.load(tmp_path / "likelihoods.npy")
    assert likelihoods.shape == (4, 3) and np.ptp(likelihoods, axis=0).min() > 1e-4
    for direction in ("image_to_text", "text_to_image"):  # all are on the shortlist
        assert recall["reranked", direction, 1] == recall["likelihood", direction, 1]

    # The same command again neither captions nor scores images.
    scored = []
    score = FlamingoEngine.score
    monkeypatch.delattr(FlamingoEngine, "generate")
    monkeypatch.setattr(FlamingoEngine, "score", lambda self, *a, **kw: (scored.append(kw), score(self, *a, **kw))[1])
    again = retrieve("methods=[captions,likelihood]", checkpoint)
    assert again == {key: value for key, value in recall.items() if key[0] in ("captions", "likelihood")}
    assert scored == [{"end": True}]  # log p(caption)


@pytest.mark.full
def test_processes_write_the_results_of_one(retrieve, models, tmp_path):
    given = (f"encoder={models}/clip", f"checkpoint={models}/checkpoint", "batch_size=1")
    given += ("methods=[dual_encoder,captions,likelihood,reranked]",)
    expected = retrieve(*given)
    three = tmp_path / "three"
    for _ in range(2):  # from the start, and after a kill
        assert values_of_processes(3, retrieve, *given, f"output={three}") == [expected] * 3
        for name in ("retrieval.json", "captions.jsonl", "likelihoods.npy"):
            assert (three / name).read_bytes() == (tmp_path / name).read_bytes()
        saved = np.load(three / "likelihoods.npy", mmap_mode="r+")
        saved[2] = np.nan
        saved.flush()


def test_kept_scores_of_other_prompts_are_refused(retrieve, models):
    common = (f"checkpoint={models}/checkpoint", "methods=[likelihood]")
    first = retrieve(*common, "shots=1", "seed=0")
    assert math.isfinite(first["likelihood", "image_to_text", 1])
    with pytest.raises(UserError, match="seed"):
        retrieve(*common, "shots=1", "seed=1")


def test_held_out_scenes_are_retrieved(retrieve, models):
    recall = retrieve("pairs=null", "limit=11", f"encoder={models}/clip", "methods=[dual_encoder]")
    assert 0 <= recall["dual_encoder", "text_to_image", 1] <= recall["dual_encoder", "text_to_image", 10] <= 1


@pytest.mark.full
def test_held_out_scenes_are_described_after_training_scenes(retrieve, models):
    common = ("pairs=null", "limit=12", f"checkpoint={models}/checkpoint", "methods=[captions,reranked]", "rerank=10")
    recall = retrieve(*common, "training_split=train", "shots=2")
    assert 0 <= recall["reranked", "text_to_image", 1] <= recall["reranked", "text_to_image", 10] <= 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["methods=[dual_encoder]"], "encoder="),
        (["methods=[likelihood]", "encoder=null"], "checkpoint="),
        (["methods=[likelihood]", "encoder=a", "checkpoint=b"], "encoder has no effect"),
        (["encoder=a", "rerank=9"], "rerank"),
        (["encoder=a", "training=b"], "training"),
    ],
    ids=["encoder", "checkpoint", "unused", "rerank", "training"],
)
def test_errors_of_the_config_name_the_key(overrides, named):
    found = problems("output=elsewhere", *overrides, command="retrieve")
    assert any(named in problem for problem in found)
