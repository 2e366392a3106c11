"""The hook on the output head of a language model that adds the logits of the new tokens."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.language import NewTokenEmbeddings
from flamingo.utils.errors import UserError


class NewTokenLogits:
    """Acts only within :meth:`attached`. Outside it the logits are those of the bare language model."""

    def __init__(self, language_model: PreTrainedModel, new_tokens: NewTokenEmbeddings) -> None:
        self._new_tokens = new_tokens
        self._name = type(language_model).__name__
        self._is_attached = False
        self._was_called = False
        language_model.get_output_embeddings().register_forward_hook(self._after_head)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adds the logits of the new tokens to one forward pass of the language model in the block.

        Raises:
            UserError: If the hook did not run. Without this error the model would work without new tokens.
        """
        outer = self._is_attached, self._was_called
        self._is_attached, self._was_called = True, False
        try:
            yield
            if not self._was_called:
                raise UserError(
                    f"{self._name} did not call the output head as the module that the new tokens are attached to: the "
                    "head was replaced or called through another module"
                )
        finally:
            self._is_attached, self._was_called = outer

    def _after_head(self, head: nn.Module, args: tuple, logits: Tensor) -> Tensor | None:
        if not self._is_attached:
            return None
        self._was_called = True
        if logits.ndim != 3:
            raise UserError(f"{self._name} gives its output head hidden states of shape {list(args[0].shape)}")
        return self._new_tokens.extend_logits(logits, args[0])
