"""Pools of captioning: demonstrations of the own support and of other data sets, without duplicates of a query."""

import pytest
import torch

from flamingo.data.document import Image
from flamingo.data.records.record import Record
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.prompts import build_prompt
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.tasks import CaptioningConfig
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.evaluation.tasks.pool import Pool
from flamingo.inference.features import FeatureStore
from flamingo.utils.errors import UserError


def record(name, folder="own"):
    return Record(name, Image(f"{folder}/{name}.jpg"), tuple(f"{folder} {name} {i}" for i in range(5)), None)


OWN = [record(f"p{number}") for number in range(10)]
#: Its images have ids of the own support's, and of a query.
OTHER = [record(name, "other") for name in ("p0", "p1", "p2", "q0", "r4", "r5")]
ASKED = [record("q0"), record("p3")]


class Store(FeatureStore):
    """Features by the name of the file: all are far apart, but those of q0 and of r5."""

    def __init__(self):
        pass

    def pooled(self, images):
        names = [str(image.frames[0]).rpartition("/")[2].removesuffix(".jpg") for image in images]
        rows = []
        for name in names:
            direction = "q0" if name == "r5" else name
            generator = torch.Generator().manual_seed(int.from_bytes(direction.encode()))
            rows.append(torch.randn(64, generator=generator))
        return torch.stack(rows)


def task():
    return Captioning("photos", ASKED, Pool(OWN), {"coco": Pool(OTHER, "coco")})


def ids(examples):
    return [example.id for example in examples]


def test_random_draws_of_the_own_support_stay_as_they_were():
    """Of the code that knew no other support."""
    shown = {query.id: prompt_examples(task(), query, Setting(3, "random")) for query in task().queries()}
    assert ids(shown["q0"]) == ["p6", "p2", "p4"] and ids(shown["p3"]) == ["p9", "p6", "p8"]
    assert [example.references for example in shown["q0"]] == [("own p6 4",), ("own p2 0",), ("own p4 1",)]


def test_prompts_show_pictures_and_captions_of_the_other_set():
    [query, _] = task().queries()
    for seed in range(5):
        shown = prompt_examples(task(), query, Setting(3, "random", support="coco", seed=seed))
        prompt = build_prompt(query, shown)
        *demonstrations, asked = prompt.chunks()
        for chunk, example in zip(demonstrations, shown, strict=True):
            name = example.id.removeprefix("coco/")
            assert f"coco/{name}" == example.id and name in {record.id for record in OTHER}
            assert chunk.image == Image(f"other/{name}.jpg")
            assert chunk.texts[0].text.startswith(f"Output: other {name} ")
        assert asked.image == Image("own/q0.jpg")
    foreign = prompt_examples(task(), query, Setting(2, "random", support="coco", control="shuffled_captions"))
    assert all(example.references[0].startswith("other ") for example in foreign)


def test_duplicates_are_shown_from_no_data_set():
    own = task()
    near_duplicates = own.index(Store(), num_neighbours=2)
    assert list(near_duplicates) == ["support", "support coco", "queries"]
    assert near_duplicates["support"] == []
    assert [(pair["query"], pair["image"]) for pair in near_duplicates["support coco"]] == [("q0", "r5")]
    other = own.other_supports["coco"]
    [query, second] = own.queries()
    # Neither the image with the id of the query nor its duplicate.
    assert ids(*other.support(query)) == [
        "coco/p0",
        "coco/p1",
        "coco/p2",
        "coco/r4",
    ]
    assert len(other.support(second)[0]) == len(OTHER)
    assert len(own.support(query)[0]) == len(OWN) and len(own.support(second)[0]) == len(OWN) - 1


def test_the_most_similar_are_those_of_the_setting_s_data_set():
    own = task()
    query = own.queries()[0]
    retrieved = Setting(2, "rices", support="coco")
    with pytest.raises(UserError, match=r"photos with support coco.*features"):
        prompt_examples(own, query, retrieved)
    own.index(Store(), num_neighbours=2)
    features = Store().pooled([one.image for one in OTHER])
    centre = features.mean(dim=0)
    similarity = torch.cosine_similarity(Store().pooled([query.image]) - centre, features - centre)
    order = [OTHER[row].id for row in similarity.argsort(descending=True) if OTHER[row].id not in ("q0", "r5")]
    shown = prompt_examples(own, query, retrieved)
    assert ids(shown) == [f"coco/{order[1]}", f"coco/{order[0]}"]
    assert not any(id.startswith("coco/") for id in ids(prompt_examples(own, query, Setting(2, "rices"))))


def test_other_supports_need_an_own_one():
    keys = {"kind": "captioning", "name": "photos", "query": "DIR", "metrics": ["CIDEr"]}
    with pytest.raises(UserError, match=r"^other_supports .*support"):
        CaptioningConfig(**keys, other_supports={"coco": "DIR"})
    assert CaptioningConfig(**keys, support="DIR", other_supports={"coco": "DIR"}).other_supports == {"coco": "DIR"}
