"""Captions of five images, and the references of each."""

OUTPUTS = ["A dog runs on the grass.", "two dogs play", "a red ball on a mat", "", "a cat sits on the red mat"]
REFERENCES = [
    ["a dog runs on green grass", "the dog is running"],
    ["two dogs play with a ball", "Two dogs, playing!"],
    ["a red ball lies on a mat", "red ball"],
    ["a man", "a man stands there"],
    ["a cat sits on a red mat", "one cat"],
]
