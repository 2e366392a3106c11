"""Zero-shot classification by the command, on a tiny CLIP."""

import json

import pytest
import torch
from PIL import Image as PILImage
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from experiments.runs.run_zero_shot import run_zero_shot
from experiments.zero_shot import ZeroShotConfig
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.utils.errors import UserError
from tests import tiny
from tests.data.shelf import write
from tests.helpers import tiny_clip
from tests.helpers.configs import composed
from tests.helpers.forked import values_of_processes

CLASSES = ("cat", "dog", "mat", "red_ball")
COLOURS = ("red", "brown", "grey", "white")
TEMPLATES = ("a {}", "the {}.")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tiny_clip.save(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """32 pictures in folders of four classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        (folder / name).mkdir()
        for number in range(8):
            picture = PILImage.new("RGB", (24, 24), colour)
            picture.paste("black", (0, 0, 3 * number, 8))
            picture.save(folder / name / f"{number}.png")
    return folder


def classify(encoder, pictures, output, *overrides):
    given = (f"query={pictures}", f"encoder={encoder}", f"output={output}", "format=class_folders", *overrides)
    file = run_zero_shot(composed("zero_shot", *given))
    rows = [json.loads(line) for line in (output / "class_probabilities.jsonl").read_text().splitlines()]
    return {row["metric"]: row for row in json.loads(file.read_text())}, rows


def test_probabilities_are_those_of_clip_with_averaged_templates(encoder, pictures, tmp_path):
    scores, rows = classify(encoder, pictures, tmp_path, "templates=['a {}','the {}.']", "batch_size=5")
    assert len(rows) == 32 and scores.keys() == {"top1_accuracy"}  # of four classes there is no top 5
    names = [name.replace("_", " ") for name in CLASSES]
    prompts = [template.replace("{}", name) for name in names for template in TEMPLATES]
    clip = tiny_clip.CLIPModel.from_pretrained(encoder)
    opened = [PILImage.open(pictures / row["image"]).convert("RGB") for row in rows]
    cosines, of_texts = tiny_clip.cosines(clip, encoder, opened, prompts)
    # The cosine with the mean of two vectors is the mean cosine, divided by the length of the mean.
    lengths = torch.stack([of_texts[i : i + 2, i : i + 2].mean().sqrt() for i in range(0, 8, 2)])
    logits = clip.logit_scale.exp() * cosines.unflatten(1, (4, 2)).mean(dim=2) / lengths
    expected = logits.softmax(dim=1)
    for row, probabilities in zip(rows, expected.tolist(), strict=True):
        found = {one["class"]: one["probability"] for one in row["classes"]}
        assert found == pytest.approx(dict(zip(names, probabilities, strict=True)), abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    right = [names[best] == row["label"] for row, best in zip(rows, expected.argmax(dim=1).tolist(), strict=True)]
    score = scores["top1_accuracy"]
    assert score["value"] == pytest.approx(sum(right) / 32) and (score["n"], score["classes"]) == (32, 4)
    assert score["ci95"][0] <= score["value"] <= score["ci95"][1] and score["templates"] == 2


@pytest.mark.full
def test_processes_write_the_probabilities_of_one(encoder, pictures, tmp_path):
    scores = classify(encoder, pictures, tmp_path / "one", "batch_size=3")
    values_of_processes(3, classify, encoder, pictures, tmp_path / "three", "batch_size=3")
    for name in ("zero_shot.json", "class_probabilities.jsonl"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(scores[1]) == 32


@pytest.mark.full
def test_siglip_has_the_probabilities_of_its_logits(pictures, tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": tiny.VOCABULARY, "max_position_embeddings": 16}
    text |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**tower, "image_size": tiny.IMAGE_SIZE, "patch_size": 8}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.logit_scale.data.fill_(2.0)
    folder = tmp_path / "siglip"
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(folder)
    processor = SiglipImageProcessorPil(size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE})
    processor.save_pretrained(folder)
    _, rows = classify(folder, pictures, tmp_path / "out", "templates=['a {}']")
    names = [name.replace("_", " ") for name in CLASSES]
    ids = tokenizer([f"a {name}" for name in names], padding="max_length", max_length=16, return_tensors="pt").input_ids
    opened = [PILImage.open(pictures / row["image"]).convert("RGB") for row in rows]
    pixels = processor(images=opened, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels).logits_per_image.softmax(dim=1)
    for row, probabilities in zip(rows, expected.tolist(), strict=True):
        found = {one["class"]: one["probability"] for one in row["classes"]}
        assert found == pytest.approx(dict(zip(names, probabilities, strict=True)), abs=1e-5)
    assert expected.std(dim=1).max() > 1e-3  # the classes differ


@pytest.mark.full
def test_names_and_templates_come_from_files_and_keys(encoder, pictures, tmp_path):
    names = write(tmp_path / "names.json", {name: f"{name} thing" for name in (*CLASSES, "grass", "colour")})
    templates = tmp_path / "templates.txt"
    templates.write_text("a {}\n\nthe {}.\n{}\n")
    given = (f"class_names={names}", f"template_file={templates}", "limit=6")
    scores, rows = classify(encoder, pictures, tmp_path / "out", *given)
    assert scores["top5_accuracy"]["classes"] == 6 and scores["top5_accuracy"]["templates"] == 3
    assert scores["top1_accuracy"]["ci95"] is None  # of fewer than 30 images
    top5 = [row["label"] in [one["class"] for one in row["classes"]] for row in rows]
    assert scores["top5_accuracy"]["value"] == sum(top5) / 6 and {row["label"] for row in rows} == {"cat thing"}
    listed = "classes=[cat,dog,mat,red ball,grass,colour,ball]"
    scores, _ = classify(encoder, pictures, tmp_path / "other", listed, "limit=2")
    assert scores["top1_accuracy"]["classes"] == 7
    with pytest.raises(UserError, match="classes has no 'cat'"):
        classify(encoder, pictures, tmp_path / "other", "classes=[dog,mat]", "overwrite=true")
    templates.write_text("a cat\n")
    with pytest.raises(UserError, match="template_file"):
        classify(encoder, pictures, tmp_path / "third", f"template_file={templates}")


@pytest.mark.parametrize(
    "values",
    [
        {"templates": ["a cat"]},
        {"templates": []},
        {"classes": ["cat"]},
        {"classes": ["cat", "cat"]},
        {"batch_size": 0},
        {"limit": 0},
    ],
)
def test_errors_of_the_config_name_the_key(values):
    with pytest.raises(UserError, match=next(iter(values))):
        ZeroShotConfig(query="a", encoder="b", output="c", **values)


def test_an_encoder_without_a_scale_is_named(encoder):
    loaded = DualEncoder(encoder)
    assert loaded.scale == pytest.approx(loaded.model.logit_scale.exp().item())
    del loaded.model.logit_scale
    with pytest.raises(UserError, match="logit_scale"):
        loaded.scale  # noqa: B018
