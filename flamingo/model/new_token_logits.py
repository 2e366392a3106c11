"""The hooks on the output head of a language model: they add the logits of the new tokens, or compute the loss."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.chunked_loss import Targets, sum_of_losses
from flamingo.model.language import NewTokenEmbeddings
from flamingo.model.logit_function import LogitFunction, measured_function
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


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
        self._loss: Tensor | None = None
        #: What the language model does to the logits of its head, if this has been measured.
        self._function: LogitFunction | None = None
        self._is_measured = False
        head = language_model.get_output_embeddings()
        head.register_forward_pre_hook(self._before_head)
        head.register_forward_hook(self._after_head)

    @contextmanager
    def attached(self, targets: Targets | None = None) -> Iterator[None]:
        """Adds the logits of the new tokens to one forward pass of the language model in the block.

        Args:
            targets: The sum of the losses of these tokens is computed in place of logits: see :meth:`loss`. This is
                done while the head runs: a sharded head has its weights only then. None: logits.

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

    def function(self, language_model: Any, embeddings: Float[Tensor, "b t d"]) -> LogitFunction | None:
        """Returns what the language model does to the logits of its head; None if the loss needs whole logits.

        It is measured once.

        Args:
            language_model: The language model, outside :meth:`attached`.
            embeddings: Embeddings of tokens, of which two run.
        """
        if not self._is_measured:
            self._function = measured_function(language_model, embeddings[:1, :2].detach())
            self._is_measured = True
            if self._function is None:
                log.info("%s changes the logits of its head: the loss of large batches needs them whole", self._name)
        return self._function

    def loss(self, output: Float[Tensor, "1 1 1"]) -> Float[Tensor, ""]:
        """Returns the sum of the losses.

        Args:
            output: What the language model has made of the output of its head. Its value is 0. Gradients pass through
                it, so that hooks for the backward pass see the loss like any other output.
        """
        assert self._loss is not None
        assert self._function is not None
        loss, self._loss = self._loss, None
        return loss + output.squeeze() / self._function.scale

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
        assert self._function is not None
        hidden = self._hidden.flatten(0, 1).index_select(0, self._targets.places)
        self._hidden = None
        loss = sum_of_losses(head, self._new_tokens, hidden, self._targets.ids, self._function)
        self._loss = loss.detach()
        return (loss - self._loss).reshape(1, 1, 1)

    def _check(self, hidden: Tensor) -> None:
        if hidden.ndim != 3:
            raise UserError(f"{self._name} gives its output head hidden states of shape {list(hidden.shape)}")
