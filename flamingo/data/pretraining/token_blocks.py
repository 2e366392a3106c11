"""Texts -> blocks of tokens of equal length, to pretrain a language model on."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from flamingo.data.batch_sizes import BatchSizes, causal_pairs
from flamingo.data.collate import Batch, count_label_tokens
from flamingo.utils.errors import UserError

#: The number of texts that are encoded together.
_ENCODED_AT_ONCE = 4096


class TokenBlocks(Sequence[np.ndarray]):
    """The concatenated tokens of all documents in blocks of ``seq_len`` tokens."""

    def __init__(self, documents: Iterable[list[int]], end_token_id: int, seq_len: int) -> None:
        """Reads all documents.

        Args:
            documents: The token ids of each document.
            end_token_id: The id that is appended to each document.
            seq_len: The tokens of a block. The last tokens, which do not fill a block, are left out.

        Raises:
            UserError: If the documents do not fill one block.
        """
        with_ends = (token_ids + [end_token_id] for token_ids in documents)
        self.tokens = np.fromiter(chain.from_iterable(with_ends), dtype=np.int32)
        self.seq_len = seq_len
        if len(self) == 0:
            raise UserError(f"{len(self.tokens)} tokens of text do not fill a block of {seq_len}")

    def __len__(self) -> int:
        return len(self.tokens) // self.seq_len

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} blocks, no block {index}")
        return self.tokens[index * self.seq_len : (index + 1) * self.seq_len]


def encode_texts(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """Yields the token ids of each text. Only 4,096 texts are in memory at once."""
    remaining = iter(texts)
    while part := list(islice(remaining, _ENCODED_AT_ONCE)):
        yield from tokenizer(part, add_special_tokens=False)["input_ids"]


def collate_blocks(blocks: list[np.ndarray]) -> Batch:
    """Returns the token ids of the blocks [b t], which are also the labels."""
    input_ids = torch.from_numpy(np.stack(blocks)).long()
    names = [f"a block that begins with the tokens {row[:8]}" for row in input_ids.tolist()]
    rows, seq_len = input_ids.shape
    sizes = BatchSizes(tokens=rows * seq_len, token_pairs=rows * causal_pairs(seq_len))
    return Batch({"input_ids": input_ids, "labels": input_ids}, names, count_label_tokens(input_ids), sizes=sizes)
