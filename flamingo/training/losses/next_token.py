"""Next-token prediction: the cross-entropy of each token given the tokens before it."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from flamingo.data.collate import Batch
from flamingo.data.processor import FlamingoProcessor
from flamingo.training.losses import NextTokenConfig


def next_token(model: nn.Module, batch: Batch, count: int) -> Float[Tensor, ""]:
    """Returns the model's own loss (nats): the sum over the batch's label tokens, divided by ``count``."""
    return model(**batch.tensors, num_items_in_batch=count).loss


def make_next_token(
    config: NextTokenConfig, processor: FlamingoProcessor, make_reward: Callable[[str], Any] | None
) -> Callable[[nn.Module, Batch, int], Float[Tensor, ""]]:
    """Returns :func:`next_token`, which needs no settings, processor or reward."""
    return next_token
