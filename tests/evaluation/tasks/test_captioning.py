"""Captioning of a user's images: the demonstrations that a query may have."""

import numpy as np
import pytest

from flamingo.data.document import Image
from flamingo.data.record import Record
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.protocol import Example, RecordTask, RetrievalTask, Task
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.utils.errors import UserError


def image(name):
    return Record(name, Image(f"{name}.jpg"), tuple(f"{name} {i}" for i in range(5)), None)


POOL = [image(f"p{i}") for i in range(10)]
ASKED = [image("q0"), image("p3")]
NEIGHBOURS = np.array([[4, 2, 7, 1, 0], [3, 9, 8, 7, 6]])


def ids(examples):
    return [example.id for example in examples]


def task(**arguments):
    return Captioning("photos", ASKED, POOL, **{"neighbours": NEIGHBOURS, **arguments})


def test_it_is_a_task_of_records_that_can_retrieve():
    assert isinstance(task(), Task)
    assert isinstance(task(), RetrievalTask)
    assert isinstance(task(), RecordTask)
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
