"""CHAIR (Rohrbach et al., arXiv 1809.02156): objects in captions that are neither in the image nor in its references.

Words are found otherwise than in the original, so the names of the scores end in PTB: captions are tokens of the Penn
Treebank, and nouns are made singular by the package inflection.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.evaluation.metrics.tokenization.ptb import tokenize
from flamingo.results import Row
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json


class ObjectWords:
    """The words of the objects that CHAIR knows."""

    def __init__(self, synonyms: Path, double_words: Path, singular: Callable[[str], str]) -> None:
        """Reads the words.

        Args:
            synonyms: A file with a line for each object: its name and its synonyms, separated by commas.
            double_words: A file with a line for each pair of words that is one word, such as ``hot dog``. A second
                column, after a comma, is the word that it stands for: ``toilet seat, toilet``.
            singular: Returns the singular of a word.

        Raises:
            UserError: If a file is missing.
        """
        self.singular = singular
        self._objects: dict[str, str] = {}
        for names in _columns(synonyms, "chair.synonyms"):
            for name in names:
                self._objects[self._key(name)] = names[0]
        pairs = _columns(double_words, "chair.double_words")
        self._double_words = {self._key(columns[0]): columns[-1] for columns in pairs}

    def object_of(self, name: str) -> str | None:
        """Returns the object that a name or a synonym stands for; None for any other word."""
        return self._objects.get(self._key(name))

    def mentions(self, caption: str) -> list[str]:
        """Returns the objects that a caption mentions, each as often as it does."""
        words = [self.singular(word) for word in tokenize(caption).split()]
        found = []
        position = 0
        while position < len(words):
            pair = " ".join(words[position : position + 2])
            if pair in self._double_words:
                found.append(self._double_words[pair])
                position += 2
            else:
                found.append(words[position])
                position += 1
        if "toilet" in found:  # the seat of a toilet is no chair
            found = [word for word in found if word != "seat"]
        objects = [self.object_of(word) for word in found]
        return [name for name in objects if name is not None]

    def _key(self, name: str) -> str:
        return " ".join(self.singular(word) for word in name.split())


class Chair:
    """CHAIRs, the share of captions with a wrong object, and CHAIRi, the share of wrong ones among all mentions."""

    def __init__(self, words: ObjectWords, objects: Mapping[str, frozenset[str]]) -> None:
        """Takes the words, and the objects in the image of each query, by the query's id."""
        self.words, self.objects = words, objects

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns the scores of each group of predictions. Without any mentioned object there is no CHAIRi."""
        statistics = []
        for rows in groups:
            counts = np.array([self._counts(row) for row in rows], dtype=float)
            scores = {"CHAIRs-PTB": Statistic(counts, _share_of_captions, len(rows))}
            if counts[:, 1].any():
                scores["CHAIRi-PTB"] = Statistic(counts, _share_of_objects, len(rows))
            statistics.append(scores)
        return statistics

    def _counts(self, row: Row) -> list[int]:
        """Returns the numbers of wrong objects, of mentioned objects, of captions with a wrong object, of captions."""
        true = set(self.objects[row["query"]])
        for reference in row["references"]:
            true.update(self.words.mentions(reference))
        mentioned = self.words.mentions(row["output"])
        num_wrong = sum(name not in true for name in mentioned)
        return [num_wrong, len(mentioned), int(num_wrong > 0), 1]


def objects_in_images(instances: Path, words: ObjectWords, images: Sequence[str]) -> dict[str, frozenset[str]]:
    """Returns the objects in each image.

    Args:
        instances: COCO's ``instances_*.json``.
        words: The words of the objects.
        images: The ids of the images in COCO.

    Raises:
        UserError: For an image that the file does not list, and for a category that is no object of ``words``.
    """
    content = read_json(instances)
    try:
        categories = {category["id"]: _object_of(category["name"], words) for category in content["categories"]}
        objects: dict[str, set[str]] = {str(image["id"]): set() for image in content["images"]}
        for annotation in content["annotations"]:
            objects[str(annotation["image_id"])].add(categories[annotation["category_id"]])
    except (KeyError, TypeError) as error:
        raise UserError(f"chair.instances: {instances} is not COCO's instances file: {error} is missing") from error
    for image in images:
        if image not in objects:
            raise UserError(f"chair.instances: {instances} has no image {image}, which is a query")
    return {image: frozenset(objects[image]) for image in images}


def singularizer() -> Callable[[str], str]:
    """Returns the function that makes nouns singular.

    Raises:
        UserError: If the package inflection is not installed.
    """
    try:
        import inflection
    except ImportError as error:
        raise UserError("CHAIR needs the package inflection: pip install 'flamingo[chair]'") from error
    return inflection.singularize


def _object_of(category: str, words: ObjectWords) -> str:
    name = words.object_of(category)
    if name is None:
        raise UserError(f"chair.synonyms has no line for {category}, a category of chair.instances")
    return name


def _columns(file: Path, key: str) -> list[list[str]]:
    """Returns the columns of each line.

    Raises:
        UserError: If the file is missing.
    """
    if not file.is_file():
        raise UserError(f"{key}: there is no file {file}")
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip():
            rows.append([column.strip() for column in line.split(",")])
    return rows


def _share_of_captions(sums: Float[np.ndarray, "*resamples 4"]) -> Any:
    return sums[..., 2] / sums[..., 3]


def _share_of_objects(sums: Float[np.ndarray, "*resamples 4"]) -> Any:
    return sums[..., 0] / sums[..., 1]
