"""Groups of streamed samples become rows of one shape, and everything that is left out is counted."""

from collections import Counter
from itertools import islice

import pytest
import torch

from flamingo import FlamingoProcessor
from flamingo.data.drops import (
    BROKEN_IMAGE,
    BROKEN_SAMPLE,
    BROKEN_SHARD,
    NO_ROOM,
    PAIR_WITH_SPECIAL_TOKEN,
    TOO_MANY_TOKENS,
)
from flamingo.data.packing import pack, pack_rows
from flamingo.data.streams import drop_log
from flamingo.data.streams.group_loader import GroupLoader
from flamingo.data.streams.row_groups import join_rows
from flamingo.utils.token_ids import TokenIds
from tests import tiny
from tests.data.streams.shards import groups, pair, picture, rows_of, source, write_pairs, write_shard
from tests.data.test_encode import example


@pytest.fixture(scope="module")
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def seen(made, numbers):
    return Counter(id for number in numbers for id in made[number].ids)


def test_each_sample_of_an_epoch_is_in_one_group(tmp_path, processor):
    made = groups(processor, a=source(write_pairs(tmp_path, 5, 4, 7), processor))
    assert made.sources["a"].order.groups_per_epoch == 3
    for epoch in range(2):
        ids = seen(made, range(6 * epoch, 6 * epoch + 6))
        assert ids == {f"{number:06}": 1 for number in range(16)}


def test_rows_of_all_groups_have_one_shape(tmp_path, processor):
    write_pairs(tmp_path, 5, 4)
    (tmp_path / "00000.tar").write_bytes(b"no tar at all")
    made = groups(processor, a=source(tmp_path, processor))
    all_shapes = [shapes(made[number].tensors) for number in range(4)]
    rows = {"input_ids": (2, 32), "image_index": (2, 32), "labels": (2, 32), "position_ids": (2, 32)}
    rows |= {"segment_ids": (2, 32)}
    pictures = {"pixel_values": (2, 4, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)}
    assert all(one in (rows, rows | pictures) for one in all_shapes)
    assert rows in all_shapes and rows | pictures in all_shapes  # one group has lost all its samples
    batch = join_rows([made[number] for number in range(4)], TokenIds(tiny.VOCABULARY, (300, 301)))
    assert batch.tensors["input_ids"].shape == (8, 32) and batch.tensors["pixel_values"].shape[:2] == (8, 4)
    assert len(batch.tensors["image_places"]) == len(batch.ids) == 4 and batch.drops == {BROKEN_SHARD: 5}
    bounds = batch.tensors["cu_seqlens"]
    assert bounds[0] == 0 and bounds[-1] == 8 * 32 and (bounds.diff() > 0).all()
    empty = batch.tensors["labels"].eq(-100).all(dim=1)
    assert empty.any() and batch.tensors["image_index"][empty].eq(-1).all()


def test_what_is_left_out_is_counted_by_reason(tmp_path, processor, monkeypatch, caplog):
    # Two broken images were logged before, and the third one is the last.
    monkeypatch.setattr(drop_log, "_num_logged", Counter({BROKEN_IMAGE: 2, f"{BROKEN_SAMPLE}: there is no caption": 3}))
    members = pair("good", 1) + pair("empty", 2, " ") + pair("special", 3, "a <image>") + pair("long", 4, "no " * 99)
    members += [("broken.png", b"no picture"), ("broken.txt", b"text"), ("bare.png", picture(5))]
    write_pairs(tmp_path, 7)
    write_shard(tmp_path / "00000.tar", members)
    made = groups(processor, streams=1, a=source(tmp_path, processor, streams=1, group_size=7))[0]
    broken = [f"{BROKEN_SAMPLE}: a caption is empty", f"{BROKEN_SAMPLE}: there is no caption"]
    reasons = [*broken, PAIR_WITH_SPECIAL_TOKEN, TOO_MANY_TOKENS, BROKEN_IMAGE, BROKEN_SHARD]
    assert made.ids == ["good"] and made.drops == Counter(reasons)
    assert "'broken'" in caplog.text and "counted only" in caplog.text
    assert ".tar, sample 2: a caption is empty" in caplog.text and "there is no caption" not in caplog.text


def test_an_update_has_equal_rows_for_any_number_of_processes(tmp_path, processor):
    made = groups(processor, a=source(write_pairs(tmp_path, 15, 9), processor))
    updates = {}
    for num_ranks in (1, 2, 3):
        loaders = [GroupLoader(made, join_rows, 6, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        steps = zip(*(islice(loader, 3) for loader in loaders), strict=True)
        updates[num_ranks] = [sorted(row for batch in shares for row in rows_of(batch)) for shares in steps]
    assert updates[1] == updates[2] == updates[3]


@pytest.mark.parametrize(
    ("limits", "kept"), [({"rows": 1, "max_images": 2, "pack_to": 128}, 2), ({"rows": 2, "pack_to": 20}, 2)]
)
def test_documents_that_do_not_fit_the_rows_are_left_out(tmp_path, processor, limits, kept):
    write_pairs(tmp_path, 6)
    made = groups(processor, streams=1, **limits, a=source(tmp_path, processor, streams=1, group_size=6))[0]
    assert len(made.ids) == kept and made.drops == {NO_ROOM: 6 - kept}


def test_a_group_is_of_one_source_and_equal_each_time(tmp_path, processor):
    first = source(write_pairs(tmp_path / "a", 9), processor)
    second = source(write_pairs(tmp_path / "b", 5, first=100), processor, seed=1)
    made = groups(processor, weights={"b": 0.5}, a=first, b=second)
    sources = []
    for number in range(12):
        one, again = made[number], made[number]
        assert one.ids == again.ids
        assert all(torch.equal(one.tensors[name], again.tensors[name]) for name in one.tensors)
        [kind] = {id >= "000100" for id in one.ids}
        sources.append(kind)
    assert set(sources) == {False, True}


def test_fixed_rows_are_packed_rows_with_padding():
    first, second = example(0, 0, 1, images=2), example(-1, 0, images=1, start=9)
    [fixed] = [pack_rows([[first, second], []], length=8, max_images=4, pad_token_id=7)]
    packed = pack([[first], [second]], 8, 7)
    for name in ("input_ids", "image_index", "labels", "position_ids", "segment_ids"):
        assert torch.equal(fixed[name][:1, :5], packed[name]), name
    assert fixed["input_ids"][0, 5:].tolist() == [7] * 3 and fixed["input_ids"][1].tolist() == [7] * 8
    assert fixed["labels"][0, 5:].tolist() == [-100] * 3 and fixed["labels"][1].tolist() == [-100] * 8
    assert fixed["image_index"][0].tolist() == [0, 0, 1, -1, 2, -1, -1, -1]
    assert torch.equal(fixed["pixel_values"][0, :3], packed["pixel_values"][0])
    assert not fixed["pixel_values"][0, 3:].any() and not fixed["pixel_values"][1].any()
    assert fixed["segment_ids"].tolist() == [[0, 0, 0, 1, 1, -1, -1, -1], [-1] * 8]  # padding is a document of its own
