"""Queries with their demonstrations, outputs and controls."""

import base64
import io
from collections import Counter

import pytest
from PIL import Image as PILImage

from flamingo import Image
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.saved_pictures import save_pictures
from flamingo.report.cards import cards
from flamingo.results import read_predictions
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path
from tests.report import fake

DEMONSTRATIONS = ["d/2", "d/0", "d/1"]
PROMPT = "<image>Output: two<|endofchunk|><image>Output: zero<|endofchunk|><image>Output: one<|endofchunk|><image>Say:"


@pytest.fixture
def make(tmp_path):
    """Cards of predictions, where the query and two demonstrations have their picture."""
    for id in ("q0", "d/0", "d/1"):
        for task in ("synthetic_captions", "a", "b", "c"):
            path = picture_path(tmp_path, task, id)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(id.encode())

    def make(*rows, **kwargs):
        fake.write_lines(tmp_path / "p.jsonl", rows)
        return cards(read_predictions(tmp_path / "p.jsonl"), tmp_path, **kwargs)

    return make


def content(uri):
    return base64.b64decode(uri.removeprefix("data:image/png;base64,")).decode()


def full(**kwargs):
    return fake.prediction("q0", DEMONSTRATIONS, PROMPT, shots=3, **kwargs)


def test_demonstrations_are_those_of_the_prompt_of_most_shots(make):
    short = fake.prediction("q0", ["d/9"], "<image>Output: nine<|endofchunk|><image>Say:", shots=1)
    text_only = fake.prediction("q0", ["d/7", "d/8"], "Output: x<|endofchunk|><image>Say:", shots=0)
    control = fake.prediction(
        "q0", DEMONSTRATIONS, PROMPT.replace("two", "false"), shots=3, control="shuffled_captions"
    )
    (card,) = make(control, text_only | {"demonstrations": "text_only"}, full(), short)
    pictures, texts = zip(*card.demonstrations)
    assert texts == ("Output: two", "Output: zero", "Output: one")
    assert pictures[0] is None  # was not kept
    assert [content(uri) for uri in pictures[1:]] == ["d/0", "d/1"]
    assert (content(card.picture), card.prompt, card.references) == ("q0", "Say:", ("a red circle",))


def test_images_that_share_a_text_are_one_demonstration(make):
    (card,) = make(fake.prediction("q0", DEMONSTRATIONS, PROMPT.replace("<image>", "<image><image>"), shots=3))
    assert [text for _, text in card.demonstrations] == ["Output: two", "Output: zero", "Output: one"]
    assert card.prompt == "Say:"


def test_outputs_are_labelled_by_shots_and_controls(make):
    (card,) = make(
        full(output="c", exact=True),
        full(output="ignored: another seed", seed=1),
        full(output="ignored: beams", decoding="beam3"),
        full(output="ignored: fewer shots") | {"control": "blind", "shots": 1},
        full(output="e", control="blind", exact=False),
        full(output="f", control="shuffled_images"),
        fake.prediction("q0", output="a", shots=0, demonstrations=None, exact=False),
        fake.prediction("q0", output="b", shots=0, demonstrations="text_only"),
        fake.prediction("q0", output="ignored: another order", shots=2) | {"order": 1},
    )
    assert [(a.setting, a.output, a.right) for a in card.answers] == [
        ("0 shots", "a", False),
        ("0 shots, text only", "b", None),
        ("3 shots", "c", True),
    ]
    assert [(a.setting, a.output, a.right) for a in card.controls] == [
        ("3 shots, blind", "e", False),
        ("3 shots, shuffled images", "f", None),
    ]


def test_cards_are_spread_over_tasks_in_file_order(make, tmp_path):
    rows = [fake.prediction(f"{task}-{i}", task=task) for task in "abc" for i in (3, 1, 2)]
    for row in rows:
        picture_path(tmp_path, row["task"], row["query"]).write_bytes(b"")
    found = make(*rows, limit=5)
    assert [card.query for card in found] == ["a-3", "a-1", "b-3", "b-1", "c-3"]
    assert Counter(card.task for card in make(*rows)) == {"a": 3, "b": 3, "c": 3}


def test_queries_without_a_picture_have_no_card(make):
    assert make(fake.prediction("unseen")) == []


def test_a_prompt_that_does_not_fit_its_demonstrations_is_named(make):
    with pytest.raises(UserError, match=r"'q0'.*shots=3.*3.*2.*demonstration_ids"):
        make(full() | {"demonstration_ids": ["d/0", "d/1"], "demonstration_answers": ["zero", "one"]})


def test_queries_whose_ids_need_escaping_have_their_own_images(tmp_path):
    ids = ("a/b", "a_b", "a:b")
    for number, id in enumerate(ids):
        picture = Image(PILImage.new("RGB", (4, 4), (number, 0, 0)))
        save_pictures(tmp_path, "captions/test", [Example(id, picture, ("r",))])
        save_pictures(tmp_path, "captions_test", [Example(id, Image(PILImage.new("RGB", (4, 4), "white")), ("r",))])
    fake.write_lines(tmp_path / "p.jsonl", [fake.prediction(id, task="captions/test") for id in ids])
    found = cards(read_predictions(tmp_path / "p.jsonl"), tmp_path)
    shown = [PILImage.open(io.BytesIO(base64.b64decode(card.picture.partition(",")[2]))) for card in found]
    assert [picture.getpixel((0, 0)) for picture in shown] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
