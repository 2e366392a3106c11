"""Captioning of a user's images: the demonstrations that a query may have."""

import numpy as np
import pytest
import torch

from flamingo.data.document import Image
from flamingo.data.records.record import Record
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.protocol import CaptionTask, Example, NearestTask, RecordTask, RetrievalTask, Task
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.evaluation.tasks.pool import Pool
from flamingo.inference.features import FeatureStore
from flamingo.utils.errors import UserError


def image(name):
    return Record(name, Image(f"{name}.jpg"), tuple(f"{name} {i}" for i in range(5)), None)


POOL = [image(f"p{i}") for i in range(10)]
ASKED = [image("q0"), image("p3")]
NEIGHBOURS = np.array([[4, 2, 7, 1, 0], [3, 9, 8, 7, 6]])


def ids(examples):
    return [example.id for example in examples]


def task(**pool):
    return Captioning("photos", ASKED, Pool(POOL, **{"neighbours": NEIGHBOURS, **pool}))


def test_it_is_a_task_of_records_that_can_retrieve():
    assert isinstance(task(), Task)
    assert isinstance(task(), RetrievalTask)
    assert isinstance(task(), RecordTask)
    assert isinstance(task(), NearestTask)
    assert isinstance(task(), CaptionTask)
    query = task().queries()[0]
    assert query.references == ("q0 0", "q0 1", "q0 2", "q0 3", "q0 4")
    assert query.prompt is None


def test_the_most_similar_stands_last_with_one_of_its_captions():
    query = task().queries()[0]
    shown = prompt_examples(task(), query, Setting(3, "rices"))
    assert ids(shown) == ["p7", "p2", "p4"]
    assert all(len(example.references) == 1 and example.references[0].startswith(example.id) for example in shown)
    more = prompt_examples(task(), query, Setting(5, "rices"))
    assert more[-3:] == shown
    seeds = {prompt_examples(task(), query, Setting(1, "rices", seed=seed))[0].references for seed in range(20)}
    assert len(seeds) > 2


def test_neither_the_query_nor_its_duplicates_are_shown():
    duplicates = {"q0": frozenset({4}), "p3": frozenset({9})}
    queries = task().queries()
    for query, forbidden in zip(queries, ({"p4"}, {"p3", "p9"}), strict=True):
        [candidates] = task(duplicates=duplicates).support(query)
        assert set(ids(candidates)) == set(ids(task().support(queries[0])[0])) - forbidden
        for seed in range(10):
            assert not forbidden & set(
                ids(prompt_examples(task(duplicates=duplicates), query, Setting(8, "random", seed=seed)))
            )
    assert ids(task(duplicates=duplicates).similar(queries[0], 3)) == ["p2", "p7", "p1"]
    assert ids(task(duplicates=duplicates).similar(queries[1], 3)) == ["p8", "p7", "p6"]


def test_the_support_of_a_query_is_a_view_of_the_pool():
    own = task(duplicates={"q0": frozenset({4, 0, 9}), "p3": frozenset({2})})
    for query, left_out in zip(own.queries(), ({0, 4, 9}, {2, 3}), strict=True):
        [candidates] = own.support(query)
        expected = [f"p{i}" for i in range(10) if i not in left_out]
        assert ids(candidates) == expected and len(candidates) == len(expected)
        assert candidates[-1].id == expected[-1]
        with pytest.raises(IndexError):
            candidates[len(expected)]
    [whole] = own.support(Example("elsewhere", Image("e.jpg"), ("e",)))
    [without] = own.support(own.queries()[0])
    assert without[0] is whole[1] and not isinstance(without, list)  # no copy of the pool


def test_what_cannot_be_retrieved_is_refused():
    query = task().queries()[0]
    with pytest.raises(UserError, match="features"):
        task(neighbours=None).similar(query, 1)
    with pytest.raises(UserError, match=r"q0.*5.*6"):
        task().similar(query, 6)


def test_controls_work_on_retrieved_demonstrations():
    query = task().queries()[0]
    plain = prompt_examples(task(), query, Setting(4, "rices"))
    swapped = prompt_examples(task(), query, Setting(4, "rices", control="shuffled_images"))
    assert [example.references for example in swapped] == [example.references for example in plain]
    assert sorted(str(e.image.frames) for e in swapped) == sorted(str(e.image.frames) for e in plain)
    foreign = prompt_examples(task(), query, Setting(4, "rices", control="shuffled_captions"))
    assert ids(foreign) == ids(plain)
    assert not any(example.references[0].startswith(example.id) for example in foreign)


class Features(FeatureStore):
    """Pooled features of two dimensions, by the name of the file, without a folder."""

    def __init__(self, **features):
        self.features = features

    def pooled(self, images):
        return torch.tensor([self.features[str(image.frames[0]).removesuffix(".jpg")] for image in images])


def test_the_nearest_image_is_found_by_the_features_of_retrieval():
    """Cosines count after the mean (5, 0) is subtracted: p1 points away from q0, though its own cosine is largest."""
    pool = [image("p0"), image("p1"), image("p2"), image("p3")]
    features = Features(q0=[6.0, 2.0], p0=[5.0, 4.0], p1=[3.0, 1.0], p2=[5.0, -6.0], p3=[7.0, 1.0])
    own = Captioning("photos", [image("q0")], Pool(pool))
    query = own.queries()[0]
    with pytest.raises(UserError, match="features"):
        own.nearest(query, [query])
    own.index(features, 0)
    p0, p1, p2, p3 = own.support(query)[0]
    assert own.nearest(query, [p3, p0, p1, p2]) is p0
    assert own.nearest(query, [p1, p3, p2]) is p3
    same = p0.with_caption("the same image")
    assert own.nearest(query, [p0, same, p1]) is same and own.nearest(query, [same, p0, p1]) is p0
    own.index(features, 3)
    similar = own.similar(query, 3)
    assert ids(similar) == ["p0", "p3", "p1"]
    assert [own.nearest(query, list(similar[first:])).id for first in range(3)] == ids(similar)


def test_captions_are_compared_with_the_frequencies_of_the_pool():
    captions = ["红狗", "红猫", "蓝鸟"]
    pool = [Record(f"p{number}", Image("p.jpg"), (caption,), None) for number, caption in enumerate(captions)]
    others = [captions[1:], captions[::2], captions[:2]]
    for language, is_similar in (("zh", True), ("en", False)):  # in characters, and in words
        own = Captioning("photos", ASKED, Pool(pool), language=language)
        first, second = (own.cider(query) for query in own.queries())
        assert first is second
        scores = first(captions, others)
        assert scores == CiderReward([[caption] for caption in captions], language)(captions, others)
        assert (scores[0] > 0) == is_similar and scores[2] == 0
