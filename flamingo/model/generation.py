"""Generation: each image is encoded once, the prompt runs once, and a token meets one image at a time."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, GenerationMixin

from flamingo.model.splice import VisualCache


class FlamingoGeneration(GenerationMixin):
    """``generate`` of :class:`flamingo.FlamingoForConditionalGeneration`."""

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As in transformers, with the arguments of :meth:`forward` for the images.

        Each image is encoded once and the prompt runs once, however many beams or samples follow;
        from then on only the keys and values that the continuation sees are kept. Prompts in a
        batch are padded on the left; the continuation sees what the last token of its prompt sees.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None:
            raise ValueError("generate needs input_ids: the prompt, if only the marker of an image")
        images = (kwargs.pop(name, None) for name in ("pixel_values", "visual_tokens", "visual_cache"))
        cache, image_index = self._images(input_ids, kwargs.pop("image_index", None), *images)
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(input_ids)

        def setting(name: str) -> Any:
            chosen = kwargs.get(name, getattr(generation_config, name, None))
            return getattr(self.generation_config, name, None) if chosen is None else chosen

        # A cache of the caller's, another kind of cache, or none: transformers handles the prompt.
        ours = setting("use_cache") is not False and not any(
            setting(name) is not None
            for name in ("past_key_values", "cache_implementation", "prefill_chunk_size", "assistant_model")
        )
        if ours:
            if input_ids.shape[1] > 1:
                copies = max(setting("num_beams") or 1, setting("num_return_sequences") or 1)
                kwargs["past_key_values"] = self._prefill_prompt(
                    input_ids, kwargs["attention_mask"], image_index, cache
                )
                kwargs["past_key_values"].batch_repeat_interleave(copies)
            if self.config.gated.attend == "last":
                cache, image_index = keep_last_image(cache, image_index)
        return super().generate(
            input_ids, generation_config=generation_config, visual_cache=cache, image_index=image_index, **kwargs
        )

    def _prefill_prompt(
        self, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor, cache: VisualCache
    ) -> DynamicCache:
        """The language model's cache of all but the last token, which generation itself begins with."""
        past = DynamicCache(config=self.language_model.config)
        self(
            input_ids[:, :-1],
            attention_mask[:, :-1],
            image_index[:, :-1],
            visual_cache=cache,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        return past

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, image_index: Tensor | None = None, **kwargs: Any
    ) -> dict:
        prepared = super().prepare_inputs_for_generation(input_ids, **kwargs)
        assert image_index is not None
        prepared["image_index"] = image_index[:, -prepared["input_ids"].shape[1] :]
        return prepared

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> dict:
        updated = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        index = updated["image_index"]
        new = kwargs.get("num_new_tokens", 1)
        updated["image_index"] = torch.cat([index, index[:, -1:].expand(-1, new)], dim=1)
        return updated


def keep_last_image(cache: VisualCache, image_index: Int[Tensor, "b t"]) -> tuple[VisualCache, Int[Tensor, "b t"]]:
    """Of every document only the image that its last token sees, now image 0 (or none)."""
    images = cache[0][0].shape[1]
    if images == 0:
        return cache, image_index
    rows = torch.arange(len(image_index), device=image_index.device)
    last = image_index[:, -1].clamp(min=0)
    kept = [(keys[rows, last].unsqueeze(1), values[rows, last].unsqueeze(1)) for keys, values in cache]
    return kept, image_index.clamp(max=0)
