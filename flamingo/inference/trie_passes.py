"""The nodes of a trie -> passes of a language model, each with an attention mask over the nodes in the cache."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from flamingo.inference.candidate_trie import CandidateTrie


@dataclass(frozen=True)
class TriePass:
    """Nodes that run together, and the nodes of earlier passes that the cache keeps for them.

    In pre-order the ancestors of all nodes of a pass are in the pass, or are ancestors of its first node. The cache
    keeps these alone, so that its size depends on the depth of the trie and not on the number of its nodes.
    """

    #: The nodes that run.
    nodes: list[int]
    #: The place of each kept node, counted from the first node that ran in the pass before. The nodes that were kept
    #: for that pass stand before it and have negative places. Kept nodes are a path that begins with node 0.
    kept: list[int]
    #: Which of the kept nodes and of the nodes of this pass a node attends to: its ancestors and itself.
    mask: Bool[np.ndarray, "nodes columns"]
    #: The nodes that are scored: the children of the nodes that run.
    children: list[int]
    #: The place of each child's parent among the nodes that run.
    places: list[int]


#: The pass of a row whose trie is done before those of the other rows.
NO_PASS = TriePass([], [], np.zeros((0, 0), dtype=bool), [], [])


def make_passes(trie: CandidateTrie, size: int) -> list[TriePass]:
    """Returns the passes of all nodes with a child, ``size`` of them at a time."""
    children_of: dict[int, list[int]] = {}
    for node in range(1, len(trie.tokens)):
        children_of.setdefault(trie.parents[node], []).append(node)
    passes = []
    place_in_cache: dict[int, int] = {}
    for start in range(0, len(trie.inner), size):
        nodes = trie.inner[start : start + size]
        kept_nodes = [] if start == 0 else [0, *trie.path(trie.parents[nodes[0]])]
        kept = [place_in_cache[node] for node in kept_nodes]
        children, places = [], []
        for place, node in enumerate(nodes):
            children += children_of[node]
            places += [place] * len(children_of[node])
        passes.append(TriePass(nodes, kept, _mask(trie, kept_nodes, nodes), children, places))
        place_in_cache = {node: place for place, node in enumerate(kept_nodes + nodes, start=-len(kept_nodes))}
    return passes


def _mask(trie: CandidateTrie, kept_nodes: list[int], nodes: list[int]) -> Bool[np.ndarray, "nodes columns"]:
    columns = kept_nodes + nodes
    column_of = {node: column for column, node in enumerate(columns)}
    ancestors = np.zeros((len(columns), len(columns)), dtype=bool)
    for column, node in enumerate(columns):
        parent = trie.parents[node]
        if parent >= 0:
            ancestors[column] = ancestors[column_of[parent]]
        ancestors[column, column] = True
    return ancestors[len(kept_nodes) :]
