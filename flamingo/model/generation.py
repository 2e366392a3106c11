"""Generation: each image and each shared prompt runs once."""

from collections.abc import Hashable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin

from flamingo.model.cache import PromptCache
from flamingo.model.decoding_step import DecodingStep, places_needed, step_key
from flamingo.model.fusion.base import VisualContext, VisualState
from flamingo.model.language import has_plain_cache
from flamingo.model.masks import positions, without_hidden
from flamingo.model.visual_tokens import IMAGE_ARGUMENTS
from flamingo.utils.devices import is_cuda

#: Settings with which transformers runs the prompt itself, with a row per beam: another kind of cache, or drafts.
#: It also does so if the language model's cache is not plain.
LEFT_TO_TRANSFORMERS = (
    "past_key_values",
    "cache_implementation",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
)


class FlamingoGeneration(GenerationMixin):
    """``generate`` of :class:`flamingo.FlamingoForConditionalGeneration`."""

    #: Whether a CUDA device replays decoding steps as a graph of kernels. The graph's cache is kept between batches.
    replays_steps = True
    #: The step of the latest prompts, kept for later ones of the same shapes.
    _step: DecodingStep | None = None
    _step_key: Hashable = None

    @torch.no_grad()
    def generate(self, inputs: Int[Tensor, "bn t"] | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """Returns the token ids [bn s] of prompts and continuations, as in transformers.

        The images are arguments of ``forward``. Each image is encoded once and the prompt runs once, whatever the
        number of beams or samples. After the prompt, only the images that the continuation needs are kept. Prompts in a
        batch are padded on the left. The continuation sees the images that the last token of its prompt sees.

        Args:
            inputs: The token ids of the prompts; also as ``input_ids``.
            generation_config: The settings, as in transformers.
            **kwargs: Arguments of ``forward``, and settings. ``past_key_values`` may be the result of :meth:`prefill`
                for the tokens that all prompts begin with.

        Raises:
            ValueError: For prompts that cannot be continued.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if kwargs.get("attention_mask") is None and input_ids is not None:
            kwargs["attention_mask"] = torch.ones_like(input_ids)
        self._check_prompts(input_ids, kwargs)
        images = {name: kwargs.pop(name, None) for name in IMAGE_ARGUMENTS}
        context = self.visual_context(
            input_ids, kwargs.pop("image_index", None), images, visual_index=kwargs.pop("visual_index", None)
        )
        prefix = kwargs.get("past_key_values")
        if isinstance(prefix, PromptCache):
            kwargs.pop("past_key_values")
        else:
            prefix = None
        visible = visible_tokens(kwargs["attention_mask"], context, prefix)
        if "past_key_values" not in self._language_model_arguments:
            kwargs["use_cache"] = False
        if self._can_prefill(generation_config, kwargs):
            if input_ids.shape[1] > 1:
                kwargs["past_key_values"] = self._prefill_beams(
                    input_ids, context, prefix, visible, generation_config, kwargs
                )
            context = self.fusion.after_prompt(context)
            self._begin_steps(context, generation_config, kwargs)
        else:
            cached = kwargs["attention_mask"].shape[1] - input_ids.shape[1]
            if cached > 0:
                # The tokens in the caller's own cache have no input ids here, but they need an image index.
                context = _padded(context, cached)
        if context.visual_index is not None:
            # Positions also count hidden tokens, which the mask leaves out.
            kwargs.setdefault("position_ids", positions(kwargs["attention_mask"]))
            kwargs["attention_mask"] = visible
            kwargs["visual_index"] = context.visual_index
        kwargs |= {"visual_state": context.state, "image_index": context.image_index}
        return super().generate(input_ids, generation_config=generation_config, **kwargs)

    def _check_prompts(self, input_ids: Tensor | None, kwargs: dict[str, Any]) -> None:
        if input_ids is None:
            raise ValueError("generate needs input_ids: a prompt with at least the marker of an image")
        if kwargs.get("assistant_model") is not None:
            raise ValueError("an assistant_model would not see the images; prompt_lookup_num_tokens drafts without one")
        self.new_tokens.known_ids.check(input_ids)
        if not kwargs["attention_mask"][:, -1].all():
            raise ValueError("attention_mask has padding on the right: pad prompts on the left")
        checkpointed = any(getattr(layer, "gradient_checkpointing", False) for layer in self.language_model.modules())
        if self.training and checkpointed:
            # transformers gives checkpointed layers no cache, and every token would see only itself.
            raise ValueError("generate with gradient checkpointing needs evaluation mode: call model.eval() first")

    def _setting(self, name: str, generation_config: Any, kwargs: dict[str, Any]) -> Any:
        """Returns a setting: the argument, else the given config's, else the model's."""
        value = kwargs.get(name, getattr(generation_config, name, None))
        return getattr(self.generation_config, name, None) if value is None else value

    def _can_prefill(self, generation_config: Any, kwargs: dict[str, Any]) -> bool:
        """Returns whether the prompt may run here, once for all of its beams."""
        if not has_plain_cache(self.language_model):
            return False
        if self._setting("use_cache", generation_config, kwargs) is False:
            return False
        return all(self._setting(name, generation_config, kwargs) is None for name in LEFT_TO_TRANSFORMERS)

    def _prefill_beams(
        self,
        input_ids: Tensor,
        context: VisualContext,
        prefix: PromptCache | None,
        visible: Tensor,
        generation_config: Any,
        kwargs: dict[str, Any],
    ) -> Cache:
        """Returns the cache of the prompts without their last tokens, for all beams."""
        num_beams = self._setting("num_beams", generation_config, kwargs) or 1
        num_sequences = self._setting("num_return_sequences", generation_config, kwargs) or 1
        beams = max(num_beams, num_sequences)
        mask = kwargs["attention_mask"][:, :-1]
        visual_index = None if context.visual_index is None else context.visual_index[:, :-1]
        cache = self.prefill(input_ids[:, :-1], mask, context.image_index[:, :-1], context.state, prefix, visual_index)
        if isinstance(cache, PromptCache):
            cache.fork(visible[:, :-1], beams)
        else:
            cache.batch_repeat_interleave(beams)
        return cache

    def _begin_steps(self, context: VisualContext, generation_config: Any, kwargs: dict[str, Any]) -> None:
        """Lets the cache of the prompts, if it has beams, run its steps in buffers that stay in place."""
        cache = kwargs.get("past_key_values")
        max_new_tokens = self._setting("max_new_tokens", generation_config, kwargs)
        if not isinstance(cache, PromptCache) or max_new_tokens is None or not self._steps_in_place():
            return
        outputs = ("output_hidden_states", "output_attentions")
        if any(self._setting(name, generation_config, kwargs) for name in outputs):
            return
        num_places = places_needed(cache, max_new_tokens)
        key = step_key(self, cache, context, num_places)
        if key != self._step_key:
            self._step = None  # its memory first
            self._step = DecodingStep(self, cache, context, num_places)
            self._step_key = key
        assert self._step is not None
        self._step.load(cache, context)
        cache.step = self._step

    def _steps_in_place(self) -> bool:
        """Returns whether decoding steps are replayed as a graph: on a CUDA device, with all weights in place."""
        if not self.replays_steps or self.training:
            return False
        if any(hasattr(parameter, "to_local") for parameter in self.parameters()):
            return False
        return is_cuda(self.get_input_embeddings().weight.device)

    @torch.no_grad()
    def prefill(
        self,
        input_ids: Int[Tensor, "bn t"],
        attention_mask: Int[Tensor, "bn t"],
        image_index: Int[Tensor, "bn t"],
        visual_state: VisualState,
        prefix: PromptCache | None = None,
        visual_index: Int[Tensor, "bn t"] | None = None,
    ) -> Cache:
        """Returns the language model's cache of these tokens.

        Args:
            input_ids: The token ids.
            attention_mask: 1 for tokens, 0 for padding on the left.
            image_index: The image that each token sees, -1 for none.
            visual_state: The state of all images.
            prefix: The cache of the first of these tokens, with one row for all prompts.
            visual_index: See ``forward``.

        Raises:
            UserError: For an id without an embedding.
        """
        self.new_tokens.known_ids.check(input_ids)
        images = {"visual_state": visual_state}
        context = self.visual_context(input_ids, image_index, images, visual_index=visual_index)
        visible = visible_tokens(attention_mask, context, prefix)
        start = 0
        if prefix is not None:
            start = prefix.get_seq_length()
            cache: Cache = prefix.expand(len(input_ids))
        elif self.shares_prefixes:
            cache = PromptCache(self.language_model.config.num_hidden_layers)
        else:
            cache = DynamicCache(config=self.language_model.config)
        if start < input_ids.shape[1]:
            self(
                input_ids[:, start:],
                visible,
                image_index[:, start:],
                visual_state=visual_state,
                visual_index=None if context.visual_index is None else context.visual_index[:, start:],
                position_ids=positions(attention_mask)[:, start:],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        if isinstance(cache, PromptCache):
            cache.visible = visible
        return cache

    @property
    def shares_prefixes(self) -> bool:
        """Whether :meth:`prefill` can run the tokens that several prompts begin with once for all of them."""
        return PromptCache.supports(self.language_model, self._language_model_arguments)

    def _supports_default_dynamic_cache(self) -> bool:
        """Returns whether transformers makes the cache. Otherwise the language model has its own cache class."""
        return self.language_model._supports_default_dynamic_cache()

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Tensor, "bn t"],
        image_index: Int[Tensor, "bn prompt"] | None = None,
        visual_index: Int[Tensor, "bn prompt"] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns the arguments of ``forward``, with the ``image_index`` of the current tokens.

        Tokens after the prompt have the last ``image_index`` of the prompt. They are text, even a generated image
        marker: their ``visual_index`` is -1.
        """
        kwargs.pop("tokenizer", None)  # transformers passes the tokenizer of stop strings on to the model
        prepared = super().prepare_inputs_for_generation(input_ids, **kwargs)
        assert image_index is not None
        cache = kwargs.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        tokens = torch.arange(start, start + prepared["input_ids"].shape[1], device=image_index.device)
        prompt_tokens = tokens.clamp(max=image_index.shape[1] - 1)
        prepared["image_index"] = image_index[:, prompt_tokens]
        if visual_index is not None:
            follows = tokens != prompt_tokens
            prepared["visual_index"] = visual_index[:, prompt_tokens].masked_fill(follows, -1)
        return prepared


def visible_tokens(
    attention_mask: Int[Tensor, "bn s"], context: VisualContext, prefix: PromptCache | None
) -> Int[Tensor, "bn s"]:
    """Returns the mask without hidden visual tokens. The cache of a prefix has its own mask."""
    t = context.image_index.shape[1]
    visible = without_hidden(attention_mask, context.hidden(positions(attention_mask)[:, -t:]))
    if context.visual_index is None or prefix is None or prefix.visible is None:
        return visible
    rest = visible[:, prefix.get_seq_length() :]
    return torch.cat([prefix.visible.expand(len(rest), -1), rest], dim=1)


def _padded(context: VisualContext, cached: int) -> VisualContext:
    """Returns the context extended by the tokens in the caller's own cache, which have no ids here."""
    visual_index = context.visual_index
    if visual_index is not None:
        visual_index = F.pad(visual_index, (cached, 0), value=-1)
    return VisualContext(context.state, F.pad(context.image_index, (cached, 0), value=-1), visual_index)
