"""Candidates share the nodes that they begin with, and a pass keeps the ancestors of its nodes alone."""

import random

import numpy as np
import pytest

from flamingo.inference.candidate_trie import make_trie
from flamingo.inference.trie_passes import make_passes

#: "tiger", "tiger cat", "cat", "tiger" again, and "tiger shark".
CANDIDATES = [[7], [7, 3], [3], [7], [7, 9, 2]]


def words(count, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(4) for _ in range(rng.randrange(1, 6))] for _ in range(count)]


def test_a_common_beginning_has_one_node_for_each_token():
    trie = make_trie(CANDIDATES)
    assert trie.tokens == [0, 3, 7, 3, 9, 2]
    assert trie.parents == [-1, 0, 0, 2, 2, 4]
    assert trie.depths == [0, 1, 1, 2, 2, 3]
    assert trie.ends == [2, 3, 1, 2, 5]
    assert trie.inner == [0, 2, 4] and trie.leaves == [1, 3, 5]
    assert trie.path(5) == [2, 4, 5] and trie.path(0) == []


def test_a_candidate_has_the_sum_of_its_own_path():
    assert make_trie(CANDIDATES).sums([100.0, 1.0, 2.0, 4.0, 8.0, 16.0]) == [2, 6, 1, 2, 26]


def test_every_candidate_can_be_read_from_its_path():
    candidates = words(60)
    trie = make_trie(candidates)
    for candidate, end in zip(candidates, trie.ends, strict=True):
        assert [trie.tokens[node] for node in trie.path(end)] == candidate
    prefixes = {tuple(candidate[: n + 1]) for candidate in candidates for n in range(len(candidate))}
    assert len(trie.tokens) == 1 + len(prefixes)
    inner = {prefix[:-1] for prefix in prefixes}
    assert len(trie.inner) == len(inner)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_each_pass_attends_to_the_ancestors_of_its_nodes(size):
    trie = make_trie(words(60))
    ran, scored, kept, nodes = [], [], [], []
    for number, one in enumerate(make_passes(trie, size)):
        kept = [(kept + nodes)[len(kept) + place] for place in one.kept]
        columns = np.array(kept + one.nodes)
        for node, row in zip(one.nodes, one.mask, strict=True):
            assert sorted(columns[row]) == [0, *trie.path(node)]
        assert len(one.nodes) <= size
        assert len(kept) <= (max(trie.depths) if number else 0)
        assert [trie.parents[child] for child in one.children] == [one.nodes[place] for place in one.places]
        ran += one.nodes
        scored += one.children
        nodes = one.nodes
    assert ran == trie.inner
    assert sorted(scored) == list(range(1, len(trie.tokens)))
