"""Candidates as a trie: those that begin with the same tokens share the nodes of these tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class CandidateTrie:
    """The nodes in pre-order: all descendants of a node follow it without a gap.

    Node 0 is the last token of the prompt. Every other node is a token of a candidate. An example with the candidates
    ``a b``, ``a b c`` and ``d``::

        node        0   1   2   3   4
        token       -   a   b   c   d
        parent      -   0   1   2   0
        depth       0   1   2   3   1
        ends        2   3   4                 the last node of each candidate
        inner       0   1   2                 the nodes with a child, which the language model has to process
    """

    #: The token of each node; 0 for node 0, whose token each prompt has.
    tokens: list[int]
    parents: list[int]
    depths: list[int]
    #: The last node of each candidate, in the order of the candidates. Equal candidates have the same one.
    ends: list[int]

    @cached_property
    def inner(self) -> list[int]:
        """The nodes with a child, in pre-order."""
        return sorted(set(self.parents[1:]))

    @property
    def leaves(self) -> list[int]:
        """The nodes without a child, in pre-order."""
        return sorted(set(range(1, len(self.tokens))) - set(self.inner))

    def path(self, node: int) -> list[int]:
        """Returns the nodes from a child of node 0 down to ``node``."""
        nodes = []
        while node > 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def sums(self, log_probs: Sequence[float]) -> list[float]:
        """Returns the sum of the values on the path of each candidate.

        Args:
            log_probs: A value for each node. That of node 0 is not read.
        """
        totals = [0.0]
        for node in range(1, len(self.tokens)):
            totals.append(totals[self.parents[node]] + log_probs[node])
        return [totals[end] for end in self.ends]


def make_trie(candidates: Sequence[Sequence[int]]) -> CandidateTrie:
    """Returns the trie of candidates, each with at least one token."""
    tokens, parents, depths = [0], [-1], [0]
    end_of: dict[tuple[int, ...], int] = {}
    path = [0]
    previous: tuple[int, ...] = ()
    # Sorted candidates visit the nodes in pre-order.
    for candidate in sorted({tuple(candidate) for candidate in candidates}):
        assert candidate
        common = _common_length(previous, candidate)
        del path[common + 1 :]
        for token in candidate[common:]:
            tokens.append(token)
            parents.append(path[-1])
            depths.append(len(path))
            path.append(len(tokens) - 1)
        end_of[candidate] = path[-1]
        previous = candidate
    ends = [end_of[tuple(candidate)] for candidate in candidates]
    return CandidateTrie(tokens, parents, depths, ends)


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Returns the number of equal tokens at the beginning of both."""
    length = 0
    for token, other in zip(first, second, strict=False):
        if token != other:
            break
        length += 1
    return length
