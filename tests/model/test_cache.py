"""The cache of a prompt, and the cache of its continuations."""

import torch

from flamingo.model.cache import GrowingLayer, PromptCache


def states(start, end, rows=2):
    """Keys [b k s e] that name their row and place; values are their negatives."""
    row = torch.arange(rows).view(-1, 1, 1, 1) * 1000.0
    keys = (row + torch.arange(start, end).view(1, 1, -1, 1)).expand(-1, 3, -1, 4)
    return keys, -keys


def test_a_layer_holds_what_was_appended_and_rarely_moves():
    layer, places, end = GrowingLayer(), set(), 0
    for n in [5, *[1] * 200]:
        keys, values = layer.update(*states(end, end + n))
        end += n
        assert torch.equal(keys, states(0, end)[0]) and torch.equal(values, states(0, end)[1])
        places.add(keys.data_ptr())
    assert layer.get_seq_length() == end == 205
    assert len(places) < 5


def test_rows_with_a_shared_prefix_do_not_write_into_each_other():
    layer = GrowingLayer()
    layer.update(*states(0, 7, rows=1))
    shared = layer.expand(2)
    keys, _ = shared.update(*states(7, 9))
    assert torch.equal(keys[:, :, :7], states(0, 7, rows=1)[0].expand(2, -1, -1, -1))
    assert torch.equal(keys[:, :, 7:], states(7, 9)[0])
    assert torch.equal(layer.keys, states(0, 7, rows=1)[0])


def test_a_layer_drops_all_later_tokens_but_the_kept_ones():
    layer = GrowingLayer()
    layer.update(*states(0, 3))
    layer.update(*states(3, 7))
    layer.keep(3, torch.tensor([[0, 3], [1, 2]]))
    assert layer.get_seq_length() == 5
    keys, values = layer.update(*states(9, 10))
    assert keys[:, 0, :, 0].tolist() == [[0, 1, 2, 3, 6, 9], [1000, 1001, 1002, 1004, 1005, 1009]]
    assert torch.equal(values, -keys)


def test_a_continuation_sees_its_prompt_and_its_own_prefix():
    cache = PromptCache(layers=1)
    cache.update(*states(0, 3), 0)
    cache.fork(torch.tensor([[1, 1, 1], [0, 1, 1]]), 2)
    first = cache.append_mask()
    assert first[:, 0].int().tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]], [[0, 1, 1, 1, 0], [0, 1, 1, 0, 1]]]
    cache.update(*states(3, 5), 0)
    assert cache.get_seq_length() == 4
    before = cache.layers[0].keys.clone()
    cache.reorder_cache(torch.tensor([1, 1, 3, 2]))
    second = cache.append_mask()
    assert second[0, 0].int().tolist() == [[1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 0, 1]]
    assert second[1, 0].int().tolist() == [[0, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0, 1]]
    assert torch.equal(cache.layers[0].keys, before)


def test_continuations_are_packed_side_by_side_and_split_again():
    cache = PromptCache(layers=1)
    cache.fork(torch.ones(2, 3, dtype=torch.long), 3)
    rows = torch.arange(6).unsqueeze(1)
    assert cache.merge_beams(rows).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(cache.split_beams(cache.merge_beams(rows).unsqueeze(-1).float()), rows.unsqueeze(-1).float())
