"""Documents of captioned images: which images, in which order, with which captions."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from flamingo.data.builders import BUILDERS
from flamingo.data.builders.interleaved import Interleaved
from flamingo.data.document import Crop, Image, Text
from flamingo.data.records.record import Record
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_kind

SOURCE = [Record(f"p{i}", Image(f"p{i}.jpg"), (f"caption {i} a", f"caption {i} b"), None) for i in range(12)]
#: Of image i: i + 1, i + 2, ... round the clock.
NEIGHBOURS = np.array([[(i + k) % 12 for k in range(1, 6)] for i in range(12)])


def interleaved(seed, least, most, neighbours=None, source=SOURCE, **keys):
    """Documents of ``least`` to ``most`` images."""
    entry = {"kind": "interleaved", "min_images": least, "max_images": most, "batch_size": 1, **keys}
    return Interleaved(load_kind(BUILDERS, entry, "entry"), source, seed, neighbours)


def shown(document):
    """Numbers of the images, and the captions."""
    images = [int(part.frames[0][1:-4]) for part in document.parts if isinstance(part, Image)]
    texts = [part.text for part in document.parts if isinstance(part, Text) and part.train]
    return images, texts


def test_a_document_is_a_function_of_seed_and_position():
    documents = interleaved(1, 1, 5)
    assert [shown(documents[i]) for i in range(40)] == [shown(interleaved(1, 1, 5)[i]) for i in range(40)]
    assert [shown(documents[i]) for i in range(40)] != [shown(interleaved(2, 1, 5)[i]) for i in range(40)]
    assert shown(documents[10**12]) == shown(interleaved(1, 1, 5)[10**12])


def test_documents_of_any_number_of_images_take_no_memory():
    """A permutation of all documents would not fit into any."""

    class Images(Sequence):
        def __len__(self):
            return 10**12

        def __getitem__(self, index):
            return Record(str(index), Image(f"p{index}.jpg"), ("one", "two"), None)

    documents = interleaved(0, 5, 5, source=Images())
    images = [shown(documents[position])[0] for position in (0, 1, 10**12 + 1, 10**15)]
    assert len({image for own in images for image in own}) == 20


def test_each_epoch_shows_each_image_once_in_a_new_order():
    documents = interleaved(3, 1, 5)
    epochs = [[shown(documents[12 * epoch + i])[0][-1] for i in range(12)] for epoch in range(20)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_each_epoch_has_another_document_for_the_same_last_image():
    documents = interleaved(3, 3, 5, num_crops=4)
    by_last_image = {}
    for position in range(12 * 20):
        document = documents[position]
        by_last_image.setdefault(document.id.split()[0], []).append(document.parts)
    for own in by_last_image.values():
        assert len(own) == 20
        assert all(one != other for one, other in combinations(own, 2))


def test_each_image_comes_once_with_one_of_its_own_captions():
    documents = interleaved(0, 1, 5)
    lengths, captions = Counter(), set()
    for position in range(300):
        images, texts = shown(documents[position])
        assert len(set(images)) == len(images)
        assert all(text[:-2] == f" caption {image}" for image, text in zip(images, texts, strict=True))
        lengths[len(images)] += 1
        captions |= set(texts)
    assert lengths.keys() == {1, 2, 3, 4, 5}
    assert min(lengths.values()) > 30
    assert len(captions) == 24


def test_the_prompt_is_not_trained_on():
    parts = interleaved(0, 2, 2)[0].parts
    assert [part.train for part in parts if isinstance(part, Text)] == [False, True] * 2
    assert parts[1] == Text("Output:", train=False)


def test_neighbours_come_in_rising_similarity():
    documents = interleaved(0, 4, 4, similar_prob=1.0, neighbours=NEIGHBOURS)
    before = {shown(documents[position])[0][-1]: shown(documents[position])[0][:-1] for position in range(12)}
    assert before[2] == [5, 4, 3]
    assert before[11] == [2, 1, 0]


def test_a_share_of_the_documents_is_of_neighbours():
    documents = interleaved(0, 4, 4, similar_prob=0.3, neighbours=NEIGHBOURS)
    drawn = [shown(documents[i])[0] for i in range(1200)]
    alike = [images == [(images[-1] + k) % 12 for k in (3, 2, 1, 0)] for images in drawn]
    assert sum(alike) / len(alike) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"least": 0}, r"^entry\.min_images .*0"),
        ({"least": 2, "most": 13}, "^max_images .*13.*12"),
        ({"least": 4}, r"^entry\.max_images .*3"),
        ({"num_crops": 0}, r"^entry\.num_crops .*0"),
        ({"captions_per_image": 0}, r"^entry\.captions_per_image .*0"),
        ({"similar_prob": 1.5}, r"^entry\.similar_prob .*1.5"),
        ({"similar_prob": 0.5}, r"max_images=3 needs 2"),
        ({"most": 7, "similar_prob": 0.5, "neighbours": NEIGHBOURS}, r"max_images=7 needs 6"),
        ({"views": 2}, r"entry.*views.*num_crops"),
    ],
)
def test_what_cannot_be_made_is_refused(keys, message):
    with pytest.raises(UserError, match=message):
        interleaved(**{"seed": 0, "least": 1, "most": 3, **keys})


def test_versions_of_a_document_differ_in_captions_alone():
    one, three = interleaved(0, 2, 2), interleaved(0, 2, 2, captions_per_image=3)
    for index in range(20):
        versions = [shown(three[3 * index + version]) for version in range(3)]
        assert versions[0] == shown(one[index])
        assert [images for images, _ in versions] == [versions[0][0]] * 3
        for first, second, third in zip(*(captions for _, captions in versions), strict=True):
            assert first[:-1] == second[:-1]
            assert first != second  # the images have two captions each
            assert third == first


def test_views_are_the_same_in_all_versions_of_a_document():
    documents = interleaved(0, 2, 2, num_crops=5, captions_per_image=2)
    images = [[part for part in documents[i].parts if isinstance(part, Image)] for i in range(40)]
    assert images[::2] == images[1::2]
    assert images[0] != images[2]


def test_all_crops_are_shown_equally_often_for_any_images():
    documents = interleaved(0, 3, 3, num_crops=4)
    images = [[part for part in documents[i].parts if isinstance(part, Image)] for i in range(300)]
    assert [len(own) for own in images] == [3] * 300
    frames = [image.frames[0] for own in images for image in own]
    numbers = [frame.number if isinstance(frame, Crop) else 0 for frame in frames]
    for number in range(4):
        assert numbers.count(number) / 900 == pytest.approx(0.25, abs=0.05)
    whole = {frame.frame if isinstance(frame, Crop) else frame for frame in frames}
    assert whole == {own.image.frames[0] for own in SOURCE}
