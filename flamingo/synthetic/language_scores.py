"""Scores of a language model on texts of the synthetic benchmark, which measure its gain from the context."""

from typing import Any

import torch
from torch.nn import functional as F

from flamingo.synthetic.documents import TURNS, Description, caption_turns, stream, tell
from flamingo.utils.devices import to_device

#: The numbers of the captions in a dialect whose loss is scored.
_CAPTIONS = (1, 3, 9)
#: Accuracies: kind of document, number of turns, and replacement of the images. The last answer is scored.
_ACCURACIES: dict[str, tuple[str, int, Description]] = {
    "names of what words say, accuracy": ("binding", 16, "keyword"),
    "names of what captions describe, accuracy": ("binding", 16, "caption"),
    "questions about what captions describe, accuracy": ("questions", 5, "caption"),
}
#: Part of the seed: another text draws other documents.
_STREAM = "language model's evaluation"


@torch.no_grad()
def in_context_scores(model: Any, tokenizer: Any, num_documents: int) -> dict[str, float]:
    """Returns losses and accuracies on text documents of the evaluation split.

    The losses (nats per token) are those of the 1st, 3rd and 9th caption in one dialect. The accuracies are those of
    the last of 16 names, and of the last of 5 questions.

    Args:
        model: A causal language model of transformers.
        tokenizer: The model's tokenizer.
        num_documents: The number of documents of each kind.
    """
    model.eval()
    losses: dict[int, list[float]] = {number: [] for number in _CAPTIONS}
    answers: dict[str, list[bool]] = {name: [] for name in _ACCURACIES}
    for i in range(num_documents):
        rng, _ = stream(_STREAM, i)
        turns = caption_turns(rng, "evaluation", max(_CAPTIONS))
        for number in _CAPTIONS:
            context = tell(turns[: number - 1], None)
            loss, _ = _score_continuation(model, tokenizer, context, tell(turns[:number], None))
            losses[number].append(loss)
        for name, (kind, number, description) in _ACCURACIES.items():
            turns = TURNS[kind](rng, "evaluation", number)
            if turns[-1].answerable:
                text = tell(turns, description)
                context = text.removesuffix(f" {turns[-1].answer}\n")
                _, is_right = _score_continuation(model, tokenizer, context, text)
                answers[name].append(is_right)
    scores = {}
    for number, values in losses.items():
        scores[f"loss of caption {number} (nats per token)"] = sum(values) / len(values)
    for name, correct in answers.items():
        scores[name] = sum(correct) / len(correct)
    return scores


def _score_continuation(model: Any, tokenizer: Any, context: str, text: str) -> tuple[float, bool]:
    """Returns the mean loss of the tokens of ``text`` after ``context``, and whether each has the highest logit."""
    ids = to_device(torch.tensor([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]), model.device)
    start = 1 + len(tokenizer(context)["input_ids"])
    logits = model(ids[None]).logits[0, start - 1 : -1]
    targets = ids[start:]
    return F.cross_entropy(logits, targets).item(), torch.equal(logits.argmax(dim=-1), targets)
