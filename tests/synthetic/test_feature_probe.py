"""The labels that a probe predicts."""

from flamingo.synthetic.feature_probe import CLASSES, scene_labels
from flamingo.synthetic.scenes import Kind, Scene


def test_probes_ask_only_what_makes_sense():
    pair = Scene((Kind("moon", "blue", "large"), Kind("circle", "red", "small")), "vertical", 2, seed=0)
    expected = {"shape": 7, "colour": 4, "size": 1, "second shape": 0, "second colour": 0, "second size": 0}
    assert dict(zip(CLASSES, scene_labels(pair))) == expected | {"relation": 3, "count": -100}
    group = Scene((Kind("star", "green", "small"),), None, 3, seed=0)
    none = dict.fromkeys(("second shape", "second colour", "second size", "relation"), -100)
    assert dict(zip(CLASSES, scene_labels(group))) == {"shape": 3, "colour": 3, "size": 0, "count": 2} | none
