"""Self-critical training: raises a caption's log-probability by its reward minus the mean reward of the others.

Source: Self-critical Sequence Training (Rennie et al., arXiv 1612.00563, section 3), with the captions of beam
search instead of samples (Meshed-Memory Transformer, Cornia et al., arXiv 1912.08226, section 3.3). The baseline of
each caption is the mean reward of the others (Luo, arXiv 2003.09971).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from flamingo.data.collate import Batch
from flamingo.data.processor import FlamingoProcessor
from flamingo.model.beam_search import decode, search
from flamingo.model.fusion.visual_index import index_of_markers
from flamingo.training.losses import SelfCriticalConfig
from flamingo.training.sharding import gathered
from flamingo.utils.errors import UserError

#: Returns a reward for each caption, given the captions and the references of each.
Reward = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]

#: The names of a batch's images; it has one of them.
_IMAGES = ("pixel_values", "image_features")


class SelfCritical:
    """A :class:`flamingo.training.step.DataSet`'s ``loss``: minus the reward of generated captions.

    The last caption of each document is left out and generated. A batch has several consecutive documents of the same
    images (``captions_per_image``): their last captions are the references.
    """

    def __init__(
        self,
        config: SelfCriticalConfig,
        processor: FlamingoProcessor,
        make_reward: Callable[[str], Reward],
    ) -> None:
        self.num_captions = config.num_captions
        self.max_new_tokens = config.max_new_tokens
        self.processor = processor
        self.reward = make_reward(config.language)

    def __call__(self, model: nn.Module, batch: Batch, count: int) -> Float[Tensor, ""]:
        """Returns minus the mean reward. Documents are weighted by their label tokens, ``count`` in the whole update.

        Its gradient is that of the expected reward (policy gradient). Dropout is off while captions are generated.
        """
        tensors = batch.tensors
        images = {name: tensors[name] for name in _IMAGES if name in tensors}
        b = max(len(rows) for rows in images.values())
        prompts, references = self._prompts(batch, b)
        captions, mask = self._generate(model, prompts, images)
        rewards = self._rewards(captions, mask, references)
        sum_of_others = rewards.sum(dim=1, keepdim=True) - rewards
        advantage = rewards - sum_of_others / (self.num_captions - 1)
        log_likelihood = self._log_likelihood(model, prompts, images, captions, mask)
        gain = (advantage * log_likelihood.view_as(rewards)).mean(dim=1)
        # The value is the reward, for the history. The gradient is that of the gain.
        expected = rewards.mean(dim=1) + gain - gain.detach()
        is_label = tensors["labels"][:, 1:] != -100
        labels_of_documents = is_label.sum(dim=1)
        labels = labels_of_documents.unflatten(0, (b, -1)).sum(dim=1)
        return -(expected * labels).sum() / count

    def _prompts(self, batch: Batch, b: int) -> tuple[dict[str, Int[Tensor, "b t"]], list[list[str]]]:
        """Returns the documents without their last captions, padded on the left, and the references of each.

        Raises:
            UserError: If a document's last text is not learnt.
        """
        starts = []
        captions = []
        for row, caption in zip(batch.tensors["input_ids"], batch.last_texts, strict=True):
            if caption is None:
                raise UserError("loss.kind=self_critical needs a text to learn after the last image of each document")
            starts.append(caption.start)
            captions.append(self._text(row[caption.start : caption.stop]))
        documents_per_image = len(captions) // b
        first_rows = range(0, len(captions), documents_per_image)
        references = [captions[first : first + documents_per_image] for first in first_rows]
        padding = {
            "input_ids": self.processor.tokenizer.pad_token_id,
            "image_index": -1,
        }
        prompts = {}
        for name, value in padding.items():
            rows = [batch.tensors[name][first, : starts[first]] for first in first_rows]
            prompts[name] = pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
        masks = [torch.ones_like(batch.tensors["input_ids"][first, : starts[first]]) for first in first_rows]
        prompts["attention_mask"] = pad_sequence(masks, batch_first=True, padding_side="left")
        return prompts, references

    def _generate(
        self,
        model: nn.Module,
        prompts: dict[str, Int[Tensor, "b t"]],
        images: dict[str, Tensor],
    ) -> tuple[Int[Tensor, "bk s"], Bool[Tensor, "bk s"]]:
        """Returns ``num_captions`` captions of each prompt, and a mask of their tokens up to and including the end."""
        unwrapped: Any = getattr(model, "module", model)  # of DDP's wrapper
        was_training = unwrapped.training
        end = self.processor.end_of_chunk_token_id
        unwrapped.eval()
        # Beam searches end after different numbers of tokens, so processes call the model differently often.
        with gathered(unwrapped):
            captions = search(
                unwrapped,
                self.processor.tokenizer,
                prompts | images,
                end=end,
                max_new_tokens=self.max_new_tokens,
                num_beams=self.num_captions,
                num_return_sequences=self.num_captions,
            )
        unwrapped.train(was_training)
        is_end = captions == end
        ends_before = is_end.cumsum(dim=1) - is_end.long()
        return captions, ends_before == 0

    def _rewards(
        self,
        captions: Int[Tensor, "bk s"],
        mask: Bool[Tensor, "bk s"],
        references: list[list[str]],
    ) -> Float[Tensor, "b k"]:
        texts = []
        for ids, is_token in zip(captions, mask, strict=True):
            texts.append(self._text(ids[is_token]))
        references_of_texts = []
        for references_of_image in references:
            references_of_texts += [references_of_image] * self.num_captions
        rewards = self.reward(texts, references_of_texts)
        return torch.tensor(rewards, device=captions.device).view(-1, self.num_captions)

    def _log_likelihood(
        self,
        model: nn.Module,
        prompts: dict[str, Int[Tensor, "b t"]],
        images: dict[str, Tensor],
        captions: Int[Tensor, "bk s"],
        mask: Bool[Tensor, "bk s"],
    ) -> Float[Tensor, " bk"]:
        """Returns the log-likelihood of each caption after its prompt."""
        rows = {name: tensor.repeat_interleave(self.num_captions, dim=0) for name, tensor in prompts.items()}
        last_image = rows["image_index"][:, -1:].expand_as(captions)
        visual_index = None
        if self.processor.tokens_per_image > 0:
            prompt_index = index_of_markers(
                rows["input_ids"], self.processor.image_token_id, self.processor.tokens_per_image
            )
            # A generated image marker is text.
            visual_index = F.pad(prompt_index, (0, captions.shape[1]), value=-1)
        caption_mask = mask.to(rows["attention_mask"].dtype)
        outputs = model(
            input_ids=torch.cat([rows["input_ids"], captions], dim=1),
            attention_mask=torch.cat([rows["attention_mask"], caption_mask], dim=1),
            image_index=torch.cat([rows["image_index"], last_image], dim=1),
            visual_index=visual_index,
            **images,
            logits_to_keep=captions.shape[1] + 1,
            use_cache=False,
        )
        logits = outputs.logits[:, :-1].float()
        targets = captions.masked_fill(~mask, -100)
        losses = F.cross_entropy(
            logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=-100,
            reduction="none",
        )
        return -losses.view_as(captions).sum(dim=1)

    def _text(self, ids: Int[Tensor, " t"]) -> str:
        end = self.processor.end_of_chunk_token_id
        return decode(self.processor.tokenizer, ids.tolist(), end)
