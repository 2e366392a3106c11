"""Captions in one call equal those of the evaluation's prompt."""

import os
import subprocess
import sys

import pytest
from PIL import Image as PILImage

from flamingo import FlamingoProcessor, Image
from flamingo.evaluation.prompts import build_prompt
from flamingo.inference.captioner import Captioner
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.errors import UserError
from tests.evaluation.fake import example, model_and_processor


@pytest.fixture(scope="module")
def captioner(backbones):
    return Captioner(*model_and_processor(backbones))


def test_captions_are_those_of_the_same_prompts_in_evaluation(captioner):
    queries, shown = [example("query", i) for i in range(8)], [example("support", i, references=1) for i in range(2)]
    engine = FlamingoEngine(captioner.model, captioner.processor, 2)
    for demonstrations in ([], shown):
        expected = engine.generate([build_prompt(query, demonstrations) for query in queries], 5, 3)
        captions = captioner(
            [query.image for query in queries],
            [(one.image, one.references[0]) for one in demonstrations],
            max_new_tokens=5,
        )
        assert captions == expected
        assert len(set(captions)) > 1


def test_images_may_be_paths_or_pictures_and_the_model_a_folder(captioner, tmp_path):
    picture = PILImage.new("RGB", (9, 7), "red")
    picture.save(tmp_path / "red.png")
    captioner.model.save_pretrained(tmp_path / "model")
    captioner.processor.save_pretrained(tmp_path / "model")
    again = Captioner.from_pretrained(tmp_path / "model", batch_size=2)
    images = [picture, tmp_path / "red.png", str(tmp_path / "red.png"), Image(picture)]
    captions = again(images, max_new_tokens=5)
    assert captions == captioner([picture], max_new_tokens=5) * 4
    assert captioner([]) == []


def test_the_template_is_the_processors_unless_another_is_given(captioner, backbones, monkeypatch):
    def recording(self, prompts, max_new_tokens, num_beams, **kwargs):
        [prompt] = prompts
        return [" | ".join(text.text for chunk in prompt.chunks() for text in chunk.texts)]

    monkeypatch.setattr(FlamingoEngine, "generate", recording)
    picture = PILImage.new("RGB", (9, 7))
    folders = (backbones / "clip_vision_model", backbones / "gpt2")
    processor = FlamingoProcessor.from_vision_text_pretrained(*folders, caption_template="Seen: {caption}")
    own = Captioner(captioner.model, processor)
    assert own([picture], [(picture, "a dog")]) == ["Seen: a dog | Seen:"]
    assert own([picture], [(picture, "a dog")], template="A photo of {caption}") == ["A photo of a dog | A photo of"]
    with pytest.raises(UserError, match=r"\{caption\}"):
        own([picture], template="A photo of")


def test_sampled_captions_depend_on_the_image_and_the_seed_alone(captioner):
    pictures = [example("query", i).image for i in range(6)]
    sampled = {"max_new_tokens": 5, "temperature": 1.5}
    together = captioner(pictures, **sampled)
    assert [captioner([picture], **sampled)[0] for picture in pictures[::-1]] == together[::-1]
    assert len(set(together)) > 3
    assert captioner(pictures, **sampled, seed=1) != together
    assert captioner([pictures[0]] * 2, **sampled) == [together[0]] * 2


def test_what_cannot_be_captioned_is_refused(captioner, tmp_path):
    for single in ("red.png", tmp_path / "red.png", PILImage.new("RGB", (9, 7))):
        with pytest.raises(TypeError, match="images"):
            captioner(single)
    with pytest.raises(UserError, match="missing"):
        captioner([tmp_path / "missing.png"])
    picture = PILImage.new("RGB", (9, 7))
    with pytest.raises(UserError, match="98"):
        captioner([picture], [(picture, "a word " * 9)] * 200)


@pytest.mark.full
def test_a_checkpoint_loads_without_output_on_stderr(captioner, tmp_path):
    captioner.model.save_pretrained(tmp_path)
    captioner.processor.save_pretrained(tmp_path)
    program = f"from flamingo.inference.captioner import Captioner; Captioner.from_pretrained({str(tmp_path)!r})"
    environment = os.environ | {"TQDM_DISABLE": "1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stderr == ""
