"""Trained embedding rows for the tokens that Flamingo adds to a frozen vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flamingo.utils.errors import UserError


class NewTokenEmbeddings(nn.Module):
    """Rows for ``token_ids``, read at the language model's input and scored at its output.

    Only these rows are parameters: the language model's own rows get neither gradients nor
    optimizer state (frozen random rows for the new tokens cost OpenFlamingo 4.6 CIDEr). An id may
    lie beyond the vocabulary or within it, where it replaces a padding row.
    """

    token_ids: Tensor

    def __init__(self, token_ids: list[int], vocabulary: int, input_width: int, output_width: int, tied: bool) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.ids_end = max(token_ids, default=-1) + 1
        self.register_buffer("token_ids", torch.tensor(token_ids, dtype=torch.long))
        self.input_rows = nn.Parameter(torch.empty(len(token_ids), input_width))
        self.output_rows = None if tied else nn.Parameter(torch.empty(len(token_ids), output_width))

    @torch.no_grad()
    def start_from_mean(self, embedding: nn.Embedding, head: nn.Linear) -> None:
        """Start every new row as the mean of the language model's, so that it is as likely as an average token."""
        self.input_rows.copy_(embedding.weight.mean(dim=0))
        if self.output_rows is not None:
            self.output_rows.copy_(head.weight.mean(dim=0))

    def embed(self, ids: Int[Tensor, "bn t"], embedding: nn.Embedding) -> Float[Tensor, "bn t d"]:
        """Embeddings of ``ids``: the language model's own rows, and for the new tokens ours, scaled like them.

        Raises UserError for an id that neither has (on the CPU; on an accelerator the lookup fails).
        """
        is_token = torch.eq(ids.unsqueeze(-1), self.token_ids)
        is_new = is_token.any(dim=-1)
        known = ids.masked_fill(is_new, 0)
        if not ids.is_cuda and (known >= self.vocabulary).any():
            raise UserError(
                f"token id {int(known.max())} is beyond the language model's vocabulary of {self.vocabulary} "
                f"and not among new_token_ids {self.token_ids.tolist()}"
            )
        embedded = embedding(known)
        if len(self.token_ids) == 0:
            return embedded
        # Gemma multiplies its embeddings inside the module; rows of ours take the same way.
        rows = self.input_rows.to(embedded.dtype) * getattr(embedding, "embed_scale", 1.0)
        new = nn.functional.embedding(is_token.int().argmax(dim=-1), rows.to(embedded.dtype))
        return torch.where(is_new.unsqueeze(-1), new, embedded)

    def extend_logits(
        self, logits: Float[Tensor, "bn t vocabulary"], hidden: Float[Tensor, "bn t d"]
    ) -> Float[Tensor, "bn t extended"]:
        """Put the new tokens' logits at their ids, in place where they fit; every other logit stays bit for bit."""
        if len(self.token_ids) == 0:
            return logits
        rows = self.input_rows if self.output_rows is None else self.output_rows
        new = nn.functional.linear(hidden.to(rows.dtype), rows).to(logits.dtype)
        beyond = max(self.ids_end - logits.shape[-1], 0)
        # Ids between the vocabulary and the first new one are nobody's.
        extended = nn.functional.pad(logits, (0, beyond), value=float("-inf")) if beyond else logits
        return extended.index_copy_(-1, self.token_ids, new)
