"""CHAIR counts objects that are neither in the image nor in its references."""

import json
import sys

import pytest

from flamingo.evaluation.metrics.chair import Chair, ObjectWords, objects_in_images, singularizer
from flamingo.utils.errors import UserError

SYNONYMS = """person, man, woman
dog, puppy
cat, kitten
chair, seat
toilet
hot dog
traffic light, stop light
bird
"""
DOUBLE_WORDS = """hot dog
stop light
toilet seat, toilet
baby bird, bird
"""
CATEGORIES = ["person", "dog", "cat", "toilet", "hot dog", "traffic light", "bird"]
#: The objects in an image, a reference, the caption, its wrong objects and all its objects, counted by hand.
CAPTIONS = [
    (["dog"], "an animal", "Two dogs run.", 0, 1),
    (["person"], "a woman sits", "a man with a cat", 1, 2),
    (["hot dog"], "food", "two hot dogs on a plate", 0, 1),
    (["dog"], "a dog", "a dog eats a hot dog", 1, 2),
    (["toilet"], "a bathroom", "the seat of a toilet", 0, 1),
    (["toilet"], "a bathroom", "a toilet seat and a chair", 1, 2),
    (["bird"], "puppies and a bird", "a baby bird and a puppy", 0, 2),
    (["traffic light", "person"], "a street", "a stop light, a man and a man", 0, 3),
    (["cat"], "a cat", "nothing is here", 0, 0),
    ([], "a dog", "cats, cats and a kitten", 3, 3),
]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    (tmp_path / "double_words.txt").write_text(DOUBLE_WORDS)
    annotations = []
    for image, (names, *_) in enumerate(CAPTIONS):
        annotations += [{"image_id": image, "category_id": 10 * CATEGORIES.index(name)} for name in names * 2]
    instances = {
        "images": [{"id": image} for image in range(len(CAPTIONS))],
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(CATEGORIES)],
        "annotations": annotations,
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    return tmp_path


def object_words(files):
    return ObjectWords(files / "synonyms.txt", files / "double_words.txt", singularizer())


def predictions(numbers=range(10)):
    return [{"query": str(i), "references": [CAPTIONS[i][1]], "output": CAPTIONS[i][2]} for i in numbers]


def test_ten_captions_have_the_scores_that_are_counted_by_hand(files):
    pytest.importorskip("inflection")
    words = object_words(files)
    chair = Chair(words, objects_in_images(files / "instances.json", words, [str(i) for i in range(10)]))
    [scores, *each] = chair.statistics([predictions(), *(predictions([i]) for i in range(10))])
    assert scores["CHAIRs-PTB"].value == pytest.approx(4 / 10)
    assert scores["CHAIRi-PTB"].value == pytest.approx(6 / 17)
    for (*_, wrong, mentioned), alone in zip(CAPTIONS, each, strict=True):
        assert alone["CHAIRs-PTB"].value == (wrong > 0)
        assert ("CHAIRi-PTB" in alone) is (mentioned > 0)
        if mentioned:
            assert alone["CHAIRi-PTB"].value == pytest.approx(wrong / mentioned)


def test_what_is_missing_is_named(files, monkeypatch):
    pytest.importorskip("inflection")
    words = object_words(files)
    with pytest.raises(UserError, match=r"chair\.instances.*no image 77"):
        objects_in_images(files / "instances.json", words, ["77"])
    (files / "synonyms.txt").write_text("person, man\n")
    with pytest.raises(UserError, match=r"chair\.synonyms.*dog"):
        objects_in_images(files / "instances.json", object_words(files), ["1"])
    with pytest.raises(UserError, match=r"chair\.double_words.*none\.txt"):
        ObjectWords(files / "synonyms.txt", files / "none.txt", str)
    monkeypatch.setitem(sys.modules, "inflection", None)
    with pytest.raises(UserError, match="inflection"):
        singularizer()
