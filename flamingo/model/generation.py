"""Generation: each image is encoded once, what prompts share runs once, and a token meets one image at a time."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin

from flamingo.model.cache import PromptCache
from flamingo.model.fusion.cross_attention import VisualState
from flamingo.model.language import has_plain_cache

#: With one of these given, transformers runs the prompt itself, with a row for each beam: another kind of cache, or
#: drafts. So it does where the language model's cache is not plain.
LEFT_TO_TRANSFORMERS = (
    "past_key_values",
    "cache_implementation",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
)


class FlamingoGeneration(GenerationMixin):
    """``generate`` of :class:`flamingo.FlamingoForConditionalGeneration`."""

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As in transformers, with the arguments of ``forward`` for the images.

        Each image is encoded once and the prompt runs once, however many beams or samples follow;
        from then on only the keys and values that the continuation sees are kept. Prompts in a
        batch are padded on the left; the continuation sees what the last token of its prompt sees.
        ``past_key_values`` may be what :meth:`prefill` made of the tokens that all prompts begin with.
        Raises ValueError for prompts that cannot be continued.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None:
            raise ValueError("generate needs input_ids: the prompt, if only the marker of an image")
        if kwargs.get("assistant_model") is not None:
            raise ValueError("an assistant_model would not see the images; prompt_lookup_num_tokens drafts without one")
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(input_ids)
        if not kwargs["attention_mask"][:, -1].all():
            raise ValueError("prompts of different lengths are padded on the left, so that all end where they go on")
        layers = self.language_model.modules()
        if self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
            # transformers takes the cache away from checkpointed layers, and every token would see only itself.
            raise ValueError("generate with gradient checkpointing needs evaluation mode: call model.eval() first")
        images = (
            kwargs.pop(name, None) for name in ("pixel_values", "image_features", "visual_tokens", "visual_state")
        )
        cache, image_index = self._images(input_ids, kwargs.pop("image_index", None), *images)

        def setting(name: str) -> Any:
            chosen = kwargs.get(name, getattr(generation_config, name, None))
            return getattr(self.generation_config, name, None) if chosen is None else chosen

        prefix = kwargs.get("past_key_values")
        if isinstance(prefix, PromptCache):
            kwargs.pop("past_key_values")
        else:
            prefix = None
        if "past_key_values" not in self._language_model_arguments:
            kwargs["use_cache"] = False
        prefills = has_plain_cache(self.language_model) and all(setting(name) is None for name in LEFT_TO_TRANSFORMERS)
        if setting("use_cache") is not False and prefills:
            if input_ids.shape[1] > 1:
                copies = max(setting("num_beams") or 1, setting("num_return_sequences") or 1)
                earlier = kwargs["attention_mask"][:, :-1]
                past = self.prefill(input_ids[:, :-1], earlier, image_index[:, :-1], cache, prefix)
                if isinstance(past, PromptCache):
                    past.branch(earlier, copies)
                else:
                    past.batch_repeat_interleave(copies)
                kwargs["past_key_values"] = past
            if self.config.fusion.attend == "last":
                cache, image_index = keep_last_image(cache, image_index)
        elif (earlier := kwargs["attention_mask"].shape[1] - input_ids.shape[1]) > 0:
            # Only the tokens behind the caller's own cache were given: count from where that begins.
            image_index = F.pad(image_index, (earlier, 0), value=-1)
        return super().generate(
            input_ids, generation_config=generation_config, visual_state=cache, image_index=image_index, **kwargs
        )

    @torch.no_grad()
    def prefill(
        self,
        input_ids: Int[Tensor, "bn t"],
        attention_mask: Int[Tensor, "bn t"],
        image_index: Int[Tensor, "bn t"],
        visual_state: VisualState,
        prefix: PromptCache | None = None,
    ) -> Cache:
        """The language model's cache of these tokens. ``prefix`` is that of the first of them, one row for all."""
        start = 0 if prefix is None else prefix.get_seq_length()
        if prefix is not None:
            past: Cache = prefix.shared_by(len(input_ids))
        elif self.shares_prefixes:
            past = PromptCache(self.language_model.config.num_hidden_layers)
        else:
            past = DynamicCache(config=self.language_model.config)
        if start < input_ids.shape[1]:
            self(
                input_ids[:, start:],
                attention_mask,
                image_index[:, start:],
                visual_state=visual_state,
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
        return past

    @property
    def shares_prefixes(self) -> bool:
        """Whether :meth:`prefill` may be asked for what several prompts begin with."""
        return PromptCache.serves(self.language_model, self._language_model_arguments)

    def _supports_default_dynamic_cache(self) -> bool:
        """Whether transformers makes the cache, or the language model one of its own class."""
        return self.language_model._supports_default_dynamic_cache()

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, image_index: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """With the ``image_index`` of the tokens run now: the prompt's, and its last for all that follow."""
        kwargs.pop("tokenizer", None)  # of stopping strings; transformers hands it on to the model
        prepared = super().prepare_inputs_for_generation(input_ids, **kwargs)
        assert image_index is not None
        past = kwargs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        tokens = torch.arange(start, start + prepared["input_ids"].shape[1], device=image_index.device)
        prepared["image_index"] = image_index[:, tokens.clamp(max=image_index.shape[1] - 1)]
        return prepared


def keep_last_image(cache: VisualState, image_index: Int[Tensor, "bn t"]) -> tuple[VisualState, Int[Tensor, "bn t"]]:
    """Of the images only the one that each row's last token sees, now image 0 (or none)."""
    documents, images = cache[0][0].shape[:2]
    if images == 0:
        return cache, image_index
    document = torch.arange(len(image_index), device=image_index.device) // (len(image_index) // documents)
    last = image_index[:, -1].clamp(min=0)
    kept = [(keys[document, last].unsqueeze(1), values[document, last].unsqueeze(1)) for keys, values in cache]
    return kept, image_index.clamp(max=0)
