"""Self-critical training: a caption that the model finds becomes likelier, as far as its reward exceeds the others'.

Source: Self-critical Sequence Training (Rennie et al., arXiv 1612.00563, section 3), with the captions of beam
search in the place of samples (Meshed-Memory Transformer, Cornia et al., arXiv 1912.08226, section 3.3), and as the
baseline of each the mean reward of the others (Luo, arXiv 2003.09971).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from flamingo.data.processor import FlamingoProcessor
from flamingo.model.beam_search import decode, search
from flamingo.training.losses import SelfCriticalConfig
from flamingo.utils.errors import UserError

#: From captions and the references of each to a reward for each.
Reward = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


class SelfCritical:
    """A :class:`~flamingo.training.step.DataSet`'s ``loss``: minus the reward of the captions that are found.

    Of each document the last caption is left out and asked for. A batch has several documents of the same
    images, one after the other (``captions_per_image``): what they say at this place are the references.
    """

    def __init__(
        self, config: SelfCriticalConfig, processor: FlamingoProcessor, make_reward: Callable[[], Reward]
    ) -> None:
        self.num_captions, self.max_new_tokens = config.num_captions, config.max_new_tokens
        self.processor, self.reward = processor, make_reward()

    def __call__(self, model: nn.Module, tensors: dict[str, Tensor], count: int) -> Float[Tensor, ""]:
        """Minus the mean reward, documents weighing by their label tokens, of which all have ``count``.

        Its gradient is that of the expected reward (policy gradient). Dropout is off while captions are found.
        """
        images = {name: given for name, given in tensors.items() if name in ("pixel_values", "image_features")}
        b = len(next(iter(images.values())))
        prompts, references = self._asked(tensors, b)
        found, said = self._found(model, prompts, images)
        texts = [self._text(row[own]) for row, own in zip(found, said, strict=True)]
        several = [own for own in references for _ in range(self.num_captions)]
        rewards = torch.tensor(self.reward(texts, several), device=found.device).unflatten(0, (b, self.num_captions))
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (self.num_captions - 1)
        likelihood = self._log_likelihood(model, prompts, images, found, said).unflatten(0, (b, self.num_captions))
        gain = ((rewards - others) * likelihood).mean(dim=1)
        # The value is the reward's, to be read in the history; the gradient is the gain's.
        expected = rewards.mean(dim=1) + gain - gain.detach()
        labels = (tensors["labels"][:, 1:] != -100).sum(dim=1).unflatten(0, (b, -1)).sum(dim=1)
        return -(expected * labels).sum() / count

    def _asked(self, tensors: dict[str, Tensor], b: int) -> tuple[dict[str, Int[Tensor, "b t"]], list[list[str]]]:
        """Prompts, padded on the left, and the references of each."""
        ids, index = tensors["input_ids"], tensors["image_index"]
        labelled = tensors["labels"] != -100
        begins = labelled & ~F.pad(labelled, (1, 0))[:, :-1]
        if not begins.any(dim=1).all():
            raise UserError(
                "loss.kind=self_critical generates the last caption of each document, but one has no text to learn"
            )
        # Of each row the last place where a labelled piece begins.
        starts = (begins * torch.arange(ids.shape[1], device=ids.device)).argmax(dim=1).tolist()
        versions = len(ids) // b
        prompts = {
            name: pad_sequence([rows[i, : starts[i]] for i in range(0, len(ids), versions)], True, fill, "left")
            for name, rows, fill in (
                ("input_ids", ids, self.processor.tokenizer.pad_token_id),
                ("attention_mask", tensors["attention_mask"], 0),
                ("image_index", index, -1),
            )
        }
        captions = [self._text(row[start:][own[start:]]) for row, own, start in zip(ids, labelled, starts, strict=True)]
        return prompts, [captions[i : i + versions] for i in range(0, len(captions), versions)]

    def _found(
        self, model: nn.Module, prompts: dict[str, Int[Tensor, "b t"]], images: dict[str, Tensor]
    ) -> tuple[Int[Tensor, "bk s"], Bool[Tensor, "bk s"]]:
        """The captions of each prompt, and which of their tokens were said: all up to the end, and this."""
        whole: Any = getattr(model, "module", model)  # of one that several processes share
        was_training, end = whole.training, self.processor.end_of_chunk_token_id
        whole.eval()
        found = search(
            whole,
            self.processor.tokenizer,
            {**prompts, **images},
            end=end,
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_captions,
            num_return_sequences=self.num_captions,
        )
        whole.train(was_training)
        is_end = found == end
        return found, is_end.cumsum(dim=1) - is_end.long() == 0

    def _log_likelihood(
        self,
        model: nn.Module,
        prompts: dict[str, Int[Tensor, "b t"]],
        images: dict[str, Tensor],
        found: Int[Tensor, "bk s"],
        said: Bool[Tensor, "bk s"],
    ) -> Float[Tensor, " bk"]:
        """Of each caption after its prompt."""
        ids, mask, index = (
            prompts[name].repeat_interleave(self.num_captions, dim=0)
            for name in ("input_ids", "attention_mask", "image_index")
        )
        logits = model(
            input_ids=torch.cat([ids, found], dim=1),
            attention_mask=torch.cat([mask, said.to(mask.dtype)], dim=1),
            image_index=torch.cat([index, index[:, -1:].expand_as(found)], dim=1),
            **images,
            logits_to_keep=found.shape[1] + 1,
            use_cache=False,
        ).logits[:, :-1]
        targets = found.masked_fill(~said, -100)
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
        return -losses.view_as(found).sum(dim=1)

    def _text(self, ids: Int[Tensor, " t"]) -> str:
        return decode(self.processor.tokenizer, ids.tolist(), self.processor.end_of_chunk_token_id)
