"""The token ids that a language model has embeddings for."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from flamingo.utils.errors import UserError


@dataclass(frozen=True)
class TokenIds:
    """The ids with embeddings in the language model: those below ``vocab_size``, and those of ``new_token_ids``."""

    vocab_size: int
    new_token_ids: tuple[int, ...]

    def check(self, ids: Int[Tensor, "b t"]) -> None:
        """Checks that each id has an embedding. The check reads ``ids`` on the host, and so waits for a GPU.

        Raises:
            UserError: For an id without an embedding.
        """
        is_unknown = ids >= self.vocab_size
        for token_id in self.new_token_ids:
            is_unknown &= ids != token_id
        if is_unknown.any():
            raise UserError(
                f"token id {int(ids[is_unknown].max())} is beyond the language model's vocabulary of "
                f"{self.vocab_size} and not among new_token_ids {list(self.new_token_ids)}"
            )
