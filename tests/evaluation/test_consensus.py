"""Captions of an image on which its others agree."""

import pytest

from flamingo.evaluation.consensus import central

DOG = ("look at that", "a brown dog runs", "a dog runs on grass", "what a day", "the brown dog runs on grass")
CAT = ("a cat sleeps on a sofa", "my favourite", "the cat sleeps", "a cat on a sofa")


def test_captions_that_say_what_others_say_are_kept_in_their_order():
    assert central([DOG, CAT], 3) == [(DOG[1], DOG[2], DOG[4]), (CAT[0], CAT[2], CAT[3])]
    assert central([CAT, DOG], 1) in ([(CAT[0],), (DOG[4],)], [(CAT[3],), (DOG[4],)])


def test_images_with_few_captions_keep_all_of_them():
    few = ("one", "another")
    assert central([few, DOG, ("alone",)], 2)[::2] == [few, ("alone",)]
    assert central([few], 2) == [few] and central([], 2) == []


def test_no_caption_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one caption has to be kept, got 0"):
        central([DOG], 0)
