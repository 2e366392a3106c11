"""Malformed files of every kind raise an error with their name, or cost one sample, which is counted."""

import resource

import pytest

from flamingo.data.sources import read_split
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from tests.data.malformed import Malformed, files

pytest.importorskip("pyarrow")

#: Kilobytes by which the peak of memory may rise; one bomb among the pictures takes 10 GB.
_ROOM = 1_500_000


def outcome(malformed: Malformed) -> str:
    """What is wrong with how a data set is read, as a training reads it; empty where nothing is."""
    try:
        source = read_split(str(malformed.path))
        for image in source.records:
            open_image(image.image.frames[0])
    except UserError as error:
        right = malformed.expected == "error" and malformed.named in str(error)
        return "" if right else str(error)
    right = malformed.expected == "skip" and (len(source.records), len(source.skipped)) == (malformed.kept, 1)
    return "" if right else f"{len(source.records)} images, left out: {source.skipped}"


def test_each_is_an_error_that_names_it_or_costs_one_sample(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {name: outcome(malformed) for name, malformed in files(tmp_path).items()}
    assert len(outcomes) > 200
    assert {name: wrong for name, wrong in outcomes.items() if wrong} == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _ROOM
