"""The next-token loss in chunks of labels: logits and gradients of one chunk are computed together, then dropped.

The whole logits of a batch would be its largest tensor, several times over: the logits, their softmax, and their
gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from flamingo.model.language import NewTokenEmbeddings
from flamingo.model.logit_function import LogitFunction

#: The number of labels whose logits exist at a time.
CHUNK = 1024
#: Logits of at most so many bytes in float32 are computed whole: a chunk would save little, and rounds otherwise.
WHOLE_LOGITS_BYTES = 2**28


def next_token_loss(
    logits: Float[Tensor, "b t vocabulary"], labels: Int[Tensor, "b t"], count: int | Int[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy (nats) of each label given the tokens before it; 0 if every label is -100.

    Args:
        logits: The logits of the next token at each position.
        labels: The tokens, which are shifted here; -100: not counted.
        count: The number of counted labels in all batches of an update, so that accumulated gradients weigh every
            token equally; None: the number in this batch.
    """
    # Shift the labels, not the logits, to avoid a copy of the logits.
    targets = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    exact = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(exact, targets, ignore_index=-100, reduction="sum")
    return total / ((targets != -100).sum().clamp(min=1) if count is None else count)


@dataclass(frozen=True)
class Targets:
    """The tokens to predict in texts of the shape ``[b t]``."""

    #: The positions before these tokens, among ``b * t``.
    places: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]
    #: ``(b, t)``.
    shape: torch.Size


def targets_of(labels: Int[Tensor, "b t"], places: Int[Tensor, " n"]) -> Targets:
    """Returns the labels that come after the given positions.

    Args:
        labels: The tokens to predict; -100: not counted.
        places: The positions, among ``b * t``, whose next token is counted.
    """
    return Targets(places, labels.flatten().index_select(0, places + 1), labels.shape)


def sum_of_losses(
    head: nn.Module,
    new_tokens: NewTokenEmbeddings,
    hidden: Float[Tensor, "n d"],
    ids: Int[Tensor, " n"],
    function: LogitFunction,
) -> Float[Tensor, ""]:
    """Returns the sum of the cross-entropies (nats) of tokens, given the head's inputs at the positions before them.

    It is that of the whole logits up to rounding, and so are its gradients. These are computed here: the backward pass
    only scales them. Hooks of the head do not run.

    Args:
        head: The output head of the language model.
        new_tokens: The new tokens, whose logits come from rows of their own.
        hidden: The inputs of the head.
        ids: The tokens.
        function: What the language model does to the logits of its head.
    """
    differentiates = torch.is_grad_enabled()
    trained: list[Tensor] = [parameter for parameter in head.parameters() if parameter.requires_grad]
    rows = new_tokens.scored_rows
    if len(rows) > 0 and rows.requires_grad:
        trained.append(rows)
    return _SumOfLosses.apply(head, new_tokens, ids, function, differentiates, hidden, *trained)


class _SumOfLosses(torch.autograd.Function):
    """The sum of losses, with gradients for the hidden states and for the trained parameters of the head."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        new_tokens: NewTokenEmbeddings,
        ids: Tensor,
        function: LogitFunction,
        differentiates: bool,
        hidden: Tensor,
        *trained: Tensor,
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=_exact(hidden))
        hidden_gradients: list[Tensor] = []
        sums = [torch.zeros_like(parameter, dtype=_exact(parameter)) for parameter in trained]
        for chunk, chunk_ids in zip(hidden.split(CHUNK), ids.split(CHUNK), strict=True):
            with torch.set_grad_enabled(differentiates):
                inputs = chunk.detach().requires_grad_(differentiates)
                head_logits = head.forward(inputs)
                logits = function(head_logits)
                new_logits = function(new_tokens.score(inputs).to(head_logits.dtype))
            loss, *gradients = _cross_entropy(logits, new_logits, chunk_ids, new_tokens, differentiates)
            total += loss
            if differentiates:
                of_chunk, *of_trained = _backward((logits, new_logits), gradients, (inputs, *trained))
                hidden_gradients.append(of_chunk)
                for sum_, gradient in zip(sums, of_trained, strict=True):
                    sum_ += gradient
        if differentiates:
            of_parameters = [sum_.to(parameter.dtype) for sum_, parameter in zip(sums, trained, strict=True)]
            ctx.save_for_backward(torch.cat(hidden_gradients), *of_parameters)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [saved * gradient for saved in ctx.saved_tensors]
        return None, None, None, None, None, *scaled


def _backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns the gradients of ``inputs``. There may be no new token, whose logits then depend on nothing."""
    pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
    return torch.autograd.grad([output for output, _ in pairs], inputs, [gradient for _, gradient in pairs])


def _cross_entropy(
    logits: Float[Tensor, "n vocabulary"],
    new_logits: Float[Tensor, "n new"],
    ids: Int[Tensor, " n"],
    new_tokens: NewTokenEmbeddings,
    differentiates: bool,
) -> tuple[Tensor, ...]:
    """Returns the sum of the cross-entropies and, if asked for, its gradients with respect to both kinds of logits."""
    is_new = torch.eq(ids.unsqueeze(1), new_tokens.token_ids)
    is_own = ~is_new.any(dim=1, keepdim=True)
    own_ids = torch.where(is_own, ids.unsqueeze(1), 0)
    # A copy, which becomes the probabilities and then the gradient in place: it is the largest tensor here.
    scores = logits.detach().to(_exact(logits), copy=True)
    new_scores = new_logits.detach().to(scores.dtype)
    if new_tokens.replaces_rows:
        vocabulary = torch.arange(scores.shape[1], device=scores.device)
        scores.masked_fill_(torch.isin(vocabulary, new_tokens.token_ids), float("-inf"))
    new_target = torch.where(is_new, new_scores, 0.0).sum(dim=1, keepdim=True)
    target = torch.where(is_own, scores.gather(1, own_ids), new_target)
    top = scores.amax(dim=1, keepdim=True)
    scores.sub_(top).exp_()
    log_sum = torch.logaddexp(scores.sum(dim=1, keepdim=True).log() + top, new_scores.logsumexp(dim=1, keepdim=True))
    loss = (log_sum - target).sum()
    if not differentiates:
        return (loss,)
    scores.mul_((top - log_sum).exp())
    scores.scatter_add_(1, own_ids, -is_own.to(scores.dtype))
    new_gradient = (new_scores - log_sum).exp() - is_new.to(scores.dtype)
    return loss, scores.to(logits.dtype), new_gradient.to(logits.dtype)


def _exact(tensor: Tensor) -> torch.dtype:
    """Returns the dtype in which losses and gradients are added: float32, or float64 if the tensor has it."""
    return torch.promote_types(tensor.dtype, torch.float32)
