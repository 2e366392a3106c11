"""Image-text retrieval: recall at k in both directions, with ties, equal captions and intervals over queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from flamingo.evaluation.metrics.resampling import Statistic, bootstrap_each, mean
from flamingo.evaluation.statistics import FEWEST_QUERIES

#: Ranks up to which a right answer counts.
RANKS = (1, 5, 10)
#: The directions: the query and what is searched.
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"

#: A row of ``retrieval.json``: ``method``, ``direction``, ``k``, ``recall``, ``ci95``, ``queries``, ``gallery``.
RecallRow = dict[str, Any]


@dataclass(frozen=True)
class Gallery:
    """Images, and all their captions. Equal captions are one text, which is right for all images that have it."""

    #: The captions of each image.
    captions: Sequence[Sequence[str]]

    @cached_property
    def texts(self) -> list[str]:
        """The distinct captions."""
        texts: dict[str, None] = {}
        for of_image in self.captions:
            texts.update(dict.fromkeys(of_image))
        return list(texts)

    @cached_property
    def text_of_caption(self) -> Int[np.ndarray, " captions"]:
        """The number of the text of each caption, image by image."""
        number_of = {text: number for number, text in enumerate(self.texts)}
        numbers = []
        for of_image in self.captions:
            numbers += [number_of[caption] for caption in of_image]
        return np.array(numbers)

    @cached_property
    def image_of_caption(self) -> Int[np.ndarray, " captions"]:
        """The number of the image of each caption."""
        return np.repeat(np.arange(len(self.captions)), [len(of_image) for of_image in self.captions])

    @cached_property
    def right(self) -> Bool[np.ndarray, "images texts"]:
        """Whether an image has the text among its captions."""
        right = np.zeros((len(self.captions), len(self.texts)), dtype=bool)
        right[self.image_of_caption, self.text_of_caption] = True
        return right


def recall_rows(
    method: str,
    image_to_text: Float[np.ndarray, "images texts"],
    text_to_image: Float[np.ndarray, "images texts"],
    gallery: Gallery,
) -> list[RecallRow]:
    """Returns recall at each of :data:`RANKS` in both directions, with 95% intervals over queries.

    The gallery of a direction stays fixed when its queries are resampled. Captions are resampled with their image: all
    of it or none. There are no intervals for fewer than 30 images.

    Args:
        method: The name of the method.
        image_to_text: The similarities that rank captions for an image.
        text_to_image: The similarities that rank images for a caption.
        gallery: The images and captions.
    """
    by_direction = {}
    for k in RANKS:
        by_direction[IMAGE_TO_TEXT, k] = _recall_of_images(image_to_text, gallery, k)
        by_direction[TEXT_TO_IMAGE, k] = _recall_of_captions(text_to_image, gallery, k)
    intervals = _intervals(by_direction)
    num_images, num_captions = len(gallery.captions), len(gallery.text_of_caption)
    sizes = {IMAGE_TO_TEXT: (num_images, num_captions), TEXT_TO_IMAGE: (num_captions, num_images)}
    rows = []
    for direction, (num_queries, gallery_size) in sizes.items():
        for k in RANKS:
            row: RecallRow = {"method": method, "direction": direction, "k": k}
            row["recall"] = by_direction[direction, k].value
            row["ci95"] = intervals[direction, k]
            row["queries"] = num_queries
            row["gallery"] = gallery_size
            rows.append(row)
    return rows


def _recall_of_images(similarities: Float[np.ndarray, "images texts"], gallery: Gallery, k: int) -> Statistic:
    columns = gallery.text_of_caption
    return mean(hit_probabilities(similarities[:, columns], gallery.right[:, columns], k).tolist())


def _recall_of_captions(similarities: Float[np.ndarray, "images texts"], gallery: Gallery, k: int) -> Statistic:
    of_texts = hit_probabilities(similarities.T, gallery.right.T, k)
    num_images = len(gallery.captions)
    hits = np.bincount(gallery.image_of_caption, of_texts[gallery.text_of_caption], minlength=num_images)
    counts = np.bincount(gallery.image_of_caption, minlength=num_images)
    quotient = mean([0.0]).of_sums
    return Statistic(np.stack([hits, counts], axis=1), quotient, n=int(counts.sum()))


def _intervals(statistics: Mapping[tuple[str, int], Statistic]) -> dict[tuple[str, int], list[float] | None]:
    keys = list(statistics)
    if len(statistics[keys[0]].parts) < FEWEST_QUERIES:
        return dict.fromkeys(keys)
    intervals = bootstrap_each([statistics[key] for key in keys])
    return {key: list(interval) for key, interval in zip(keys, intervals, strict=True)}


def hit_probabilities(
    similarities: Float[np.ndarray, "queries gallery"], right: Bool[np.ndarray, "queries gallery"], k: int
) -> Float[np.ndarray, " queries"]:
    """Returns the probability that a right answer is among the first k, where equally similar ones lie in random order.

    Args:
        similarities: The similarity of each query to each entry of the gallery.
        right: Whether an entry is a right answer. Each query has one at least.
        k: The number of entries.
    """
    best = np.where(right, similarities, -np.inf).max(axis=1, keepdims=True)
    above = (similarities > best).sum(axis=1)
    tied = (similarities == best).sum(axis=1)
    tied_wrong = ((similarities == best) & ~right).sum(axis=1)
    places = np.clip(k - above, 0, tied)
    # The probability that all places go to wrong entries, drawn without replacement.
    miss = np.ones(len(similarities))
    for place in range(k):
        drawn = place < places
        share = np.clip(tied_wrong - place, 0, None) / np.maximum(tied - place, 1)
        miss[drawn] *= share[drawn]
    return 1 - miss


def shortlist(similarities: Float[np.ndarray, "queries gallery"], number: int) -> Bool[np.ndarray, "queries gallery"]:
    """Returns the ``number`` most similar entries of each query. Equally similar ones keep their order."""
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :number]
    listed = np.zeros(similarities.shape, dtype=bool)
    np.put_along_axis(listed, order, True, axis=1)
    return listed
