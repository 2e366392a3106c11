"""The sizes of batches: what a step has to compute, padding apart."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """The sizes of one batch, or of several together."""

    tokens: int = 0
    #: For each token the tokens of its document up to itself.
    token_pairs: int = 0
    #: Images of the connector. Documents that share their images count them once.
    images: int = 0
    #: Those of them whose pixels the encoder gets; the others have stored features.
    encoded_images: int = 0

    def __add__(self, other: "BatchSizes") -> "BatchSizes":
        """Returns the sizes of both together."""
        return BatchSizes(
            self.tokens + other.tokens,
            self.token_pairs + other.token_pairs,
            self.images + other.images,
            self.encoded_images + other.encoded_images,
        )


def causal_pairs(tokens: int) -> int:
    """Returns the pairs of a document's tokens in which one attends to the other, or to itself."""
    return tokens * (tokens + 1) // 2
