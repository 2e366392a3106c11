"""What a language model does to the logits of its head, as measured: it returns, scales or caps them.

Cohere and Granite scale their logits, Gemma 2 caps them by a tanh.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.utils.devices import random_devices

#: Logits that a model is given in place of its own: of this size, and beyond any cap, and where a cap changes nothing.
_LARGEST, _CAPPED, _LINEAR = 100.0, 1e6, 2.0**-13
#: The relative error by which a function is recognised.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class LogitFunction:
    """``scale * x``, or with a cap ``cap * tanh(scale * x / cap)``."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the logits as the language model returns them."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def measured_function(language_model: Any, embeddings: Float[Tensor, "b t d"]) -> LogitFunction | None:
    """Returns the function that a language model applies to the logits of its head; None if it is another one.

    A forward pass runs, in which given numbers replace the logits. It draws no random numbers.

    Args:
        language_model: The language model.
        embeddings: Embeddings of few tokens.
    """
    given: list[Tensor] = []

    def give_logits(head: nn.Module, args: tuple, logits: Tensor) -> Tensor:
        exact = torch.promote_types(logits.dtype, torch.float32)
        numbers = torch.linspace(-_LARGEST, _LARGEST, logits.shape[-1], device=logits.device, dtype=exact)
        numbers[0], numbers[1] = _CAPPED, _LINEAR
        given.append(numbers.expand_as(logits))
        return given[-1]

    handle = language_model.get_output_embeddings().register_forward_hook(give_logits)
    try:
        with torch.no_grad(), torch.random.fork_rng(random_devices(language_model)):
            returned = language_model(inputs_embeds=embeddings).logits
    finally:
        handle.remove()
    if len(given) != 1 or returned.shape != given[0].shape:
        return None
    return _recognised(given[0].double(), returned.double())


def _recognised(given: Float[Tensor, "*shape"], returned: Float[Tensor, "*shape"]) -> LogitFunction | None:
    largest, linear = returned.flatten()[:2].tolist()
    scale = _exactly_one(linear / _LINEAR)
    is_capped = abs(largest) < _TOLERANCE * abs(scale) * _CAPPED
    function = LogitFunction(scale, largest if is_capped else None)
    is_this_one = largest != 0 and torch.allclose(function(given), returned, rtol=_TOLERANCE, atol=_TOLERANCE)
    return function if is_this_one else None


def _exactly_one(scale: float) -> float:
    return 1.0 if abs(scale - 1) < _TOLERANCE else scale
