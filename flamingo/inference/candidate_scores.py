"""The log-likelihoods of a prompt's candidates: ranking, probabilities, and what the query's images change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

#: The values that candidates can be ranked by.
RANKED_BY = ("sum", "mean", "minus_prior")


@dataclass(frozen=True)
class CandidateScores:
    """The log-likelihoods, in nats, of the candidates of one prompt."""

    candidates: tuple[str, ...]
    #: The number of scored tokens of each candidate.
    num_tokens: tuple[int, ...]
    #: The log-likelihood of each candidate: the sum over its tokens.
    sums: tuple[float, ...]
    #: The same after the prompt with the query's images unseen by any token; None: not computed.
    prior_sums: tuple[float, ...] | None = None

    @classmethod
    def averaged(cls, scores: "Sequence[CandidateScores]") -> "CandidateScores":
        """Returns the means of the log-likelihoods of the same candidates after several prompts.

        Args:
            scores: The scores after each prompt.
        """
        first = scores[0]
        if len(scores) == 1:
            return first
        assert all((one.candidates, one.num_tokens) == (first.candidates, first.num_tokens) for one in scores)
        sums = [fmean(values) for values in zip(*(one.sums for one in scores), strict=True)]
        priors = [one.prior_sums for one in scores if one.prior_sums is not None]
        assert len(priors) in (0, len(scores))
        prior_sums = [fmean(values) for values in zip(*priors, strict=True)]
        return cls(first.candidates, first.num_tokens, tuple(sums), tuple(prior_sums) if priors else None)

    @property
    def means(self) -> tuple[float, ...]:
        """The log-likelihood of each candidate per token."""
        return tuple(total / count for total, count in zip(self.sums, self.num_tokens, strict=True))

    @property
    def minus_prior(self) -> tuple[float, ...]:
        """The log-likelihood of each candidate minus the one with the query's images unseen."""
        assert self.prior_sums is not None
        return tuple(total - prior for total, prior in zip(self.sums, self.prior_sums, strict=True))

    def values(self, by: str) -> tuple[float, ...]:
        """Returns the value of each candidate that ``by``, one of :data:`RANKED_BY`, names."""
        if by == "sum":
            return self.sums
        if by == "mean":
            return self.means
        assert by == "minus_prior", by
        return self.minus_prior

    def ranking(self, by: str = "sum") -> list[int]:
        """Returns the positions of all candidates, the best first. Candidates with equal values keep their order.

        Args:
            by: One of :data:`RANKED_BY`.
        """
        values = self.values(by)
        return sorted(range(len(values)), key=lambda position: -values[position])

    def best(self, by: str = "sum") -> str:
        """Returns the best candidate."""
        return self.candidates[self.ranking(by)[0]]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The softmax of the log-likelihoods over the candidates."""
        return tuple(math.exp(value) for value in _log_softmax(self.sums))

    @property
    def entropy(self) -> float:
        """The entropy of the probabilities, in nats."""
        return -sum(p * math.log(p) for p in self.probabilities if p > 0)

    @property
    def kl(self) -> float:
        """KL(p with the query's images || p with them unseen), in nats."""
        assert self.prior_sums is not None
        divergence = 0.0
        for log_p, log_q in zip(_log_softmax(self.sums), _log_softmax(self.prior_sums), strict=True):
            if log_p > -math.inf:
                divergence += math.exp(log_p) * (log_p - log_q)
        return divergence


def _log_softmax(values: Sequence[float]) -> list[float]:
    largest = max(values)
    log_total = largest + math.log(sum(math.exp(value - largest) for value in values))
    return [value - log_total for value in values]
