"""The hooks on the output head of a language model: they add the logits of the new tokens, or compute the loss."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.chunked_loss import Targets, sum_of_losses
from flamingo.model.language import NewTokenEmbeddings
from flamingo.utils.devices import random_devices
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

#: The largest logit that a language model is given to see whether it changes the logits of its head.
_LARGEST = 100.0


class NewTokenLogits:
    """Acts only within :meth:`attached`. Outside it the logits are those of the bare language model."""

    def __init__(self, language_model: PreTrainedModel, new_tokens: NewTokenEmbeddings) -> None:
        self._new_tokens = new_tokens
        self._name = type(language_model).__name__
        self._is_attached = False
        self._was_called = False
        #: The tokens whose loss takes the place of the logits in the current forward pass.
        self._targets: Targets | None = None
        self._hidden: Tensor | None = None
        #: Whether the language model returns the logits of its head unchanged; None: not known yet.
        self._are_final: bool | None = None
        head = language_model.get_output_embeddings()
        head.register_forward_pre_hook(self._before_head)
        head.register_forward_hook(self._after_head)

    @contextmanager
    def attached(self, targets: Targets | None = None) -> Iterator[None]:
        """Adds the logits of the new tokens to one forward pass of the language model in the block.

        Args:
            targets: The language model then returns the sum of the losses of these tokens, [1 1 1], in place of
                logits. It is computed while the head runs: a sharded head has its weights only then. None: logits.

        Raises:
            UserError: If a hook did not run. Without this error the model would work without new tokens.
        """
        outer = self._is_attached, self._was_called, self._targets
        self._is_attached, self._was_called, self._targets = True, False, targets
        try:
            yield
            if not self._was_called:
                raise UserError(
                    f"{self._name} did not call the output head as the module that the new tokens are attached to: the "
                    "head was replaced or called through another module"
                )
        finally:
            self._is_attached, self._was_called, self._targets = outer
            self._hidden = None

    def are_final(self, language_model: Any, embeddings: Float[Tensor, "b t d"]) -> bool:
        """Returns whether the language model returns the logits of its head unchanged.

        Some models scale or cap them. This is found once: two tokens run, and known numbers replace their logits.

        Args:
            language_model: The language model, outside :meth:`attached`.
            embeddings: Embeddings of tokens.
        """
        if self._are_final is None:
            self._are_final = self._returns_given_logits(language_model, embeddings[:1, :2].detach())
            if not self._are_final:
                log.info(
                    "%s changes the logits of its output head: the loss of large batches needs their whole logits",
                    self._name,
                )
        return self._are_final

    def _returns_given_logits(self, language_model: Any, embeddings: Tensor) -> bool:
        given: list[Tensor] = []

        def give_logits(head: nn.Module, args: tuple, logits: Tensor) -> Tensor:
            numbers = torch.linspace(-_LARGEST, _LARGEST, logits.shape[-1], device=logits.device)
            given.append(numbers.to(logits.dtype).expand_as(logits))
            return given[-1]

        handle = language_model.get_output_embeddings().register_forward_hook(give_logits)
        try:
            with torch.no_grad(), torch.random.fork_rng(random_devices(language_model)):
                returned = language_model(inputs_embeds=embeddings).logits
        finally:
            handle.remove()
        return len(given) == 1 and torch.equal(returned.float(), given[0].float())

    def _before_head(self, head: nn.Module, args: tuple) -> tuple | None:
        """Returns one hidden state as the input of the head, and keeps all of them for the loss."""
        if self._targets is None:
            return None
        self._check(args[0])
        assert args[0].shape[:2] == self._targets.shape, "the loss needs the hidden states of all tokens"
        self._hidden = args[0]
        return (self._hidden[:1, :1],)

    def _after_head(self, head: nn.Module, args: tuple, logits: Tensor) -> Tensor | None:
        if not self._is_attached:
            return None
        self._was_called = True
        if self._targets is None:
            self._check(args[0])
            return self._new_tokens.extend_logits(logits, args[0])
        assert self._hidden is not None
        hidden = self._hidden.flatten(0, 1).index_select(0, self._targets.places)
        self._hidden = None
        # The loss is the output of the head, so that hooks for the backward pass see it like any other output.
        return sum_of_losses(head, self._new_tokens, hidden, self._targets.ids).reshape(1, 1, 1)

    def _check(self, hidden: Tensor) -> None:
        if hidden.ndim != 3:
            raise UserError(f"{self._name} gives its output head hidden states of shape {list(hidden.shape)}")
