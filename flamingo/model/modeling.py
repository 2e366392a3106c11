"""The model: vision encoder, connector, fusion, language model; forward pass."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import TransformersKwargs, can_return_tuple

from flamingo.model.cache import PromptCache
from flamingo.model.checkpoints import FlamingoCheckpoints
from flamingo.model.chunked_loss import WHOLE_LOGITS_BYTES, Targets, next_token_loss, targets_of
from flamingo.model.config import FlamingoConfig
from flamingo.model.connectors import CONNECTORS
from flamingo.model.fusion import FUSIONS
from flamingo.model.fusion.base import VisualContext, VisualState
from flamingo.model.generation import FlamingoGeneration
from flamingo.model.initialization import initialize
from flamingo.model.language import NewTokenEmbeddings, check_interface, forward_arguments, make_text_model
from flamingo.model.masks import full_mask, positions, without_hidden
from flamingo.model.new_token_logits import NewTokenLogits
from flamingo.model.packed_attention import packed_mask, row_mask
from flamingo.model.parts import FlamingoParts
from flamingo.model.precision import in_own_precision
from flamingo.model.vision import feature_width, measured_class_token
from flamingo.model.vision_loading import make_vision_model
from flamingo.model.visual_tokens import IMAGE_ARGUMENTS, FlamingoImages
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of


class FlamingoForConditionalGeneration(
    FlamingoParts, FlamingoCheckpoints, FlamingoImages, PreTrainedModel, FlamingoGeneration, GenerationMixin
):
    """Frozen vision encoder -> connector -> fusion with a frozen language model."""

    config_class = FlamingoConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Trained parts and their optimizer state stay in fp32 (Flamingo, appendix B.1.2), whatever the dtype of the frozen
    # parts; `.to(torch.bfloat16)` afterwards converts everything.
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["connector", "fusion", "input_rows", "output_rows"]

    vision_model: PreTrainedModel
    language_model: PreTrainedModel
    #: The kernel of packed rows, one of :data:`flamingo.model.PACKED_ATTENTION`.
    packed_attention = "dense"

    def __init__(
        self,
        config: FlamingoConfig,
        vision_model: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.vision_model = vision_model or make_vision_model(config.vision_config)
        self.language_model = language_model or make_text_model(config.text_config)
        check_interface(self.language_model)
        # The config objects of the loaded backbones are shared, so that they cannot diverge.
        config.vision_config = self.vision_model.config
        config.text_config = self.language_model.config
        if config.vision_features.class_token == "auto":
            class_token = measured_class_token(self.vision_model, config.vision_features)
            config.vision_features = replace(config.vision_features, class_token=class_token)
        if config.vision_width is None:
            config.vision_width = feature_width(self.vision_model, config.vision_features)
        connector_class = class_of(CONNECTORS, config.connector.kind)
        text_width = config.text_config.hidden_size
        self.connector = connector_class(config.connector, config.vision_width, text_width)
        fusion_class = class_of(FUSIONS, config.fusion.kind)
        self.fusion = fusion_class(config.fusion, self.connector.width, self.language_model, config.image_token_id)
        # Read the signature now: a wrapper of the language model (peft) hides it.
        self._language_model_arguments = forward_arguments(self.language_model)
        embedding, head = self.get_input_embeddings(), self.get_output_embeddings()
        self.new_tokens = NewTokenEmbeddings(
            config.new_token_ids,
            vocab_size=embedding.weight.shape[0],
            input_width=embedding.weight.shape[1],
            output_width=head.weight.shape[1],
            tied=getattr(config.text_config, "tie_word_embeddings", False),
        )
        self.new_token_logits = NewTokenLogits(self.language_model, self.new_tokens)
        self.post_init()
        self.freeze_backbones()

    def _init_weights(self, module: nn.Module) -> None:
        initialize(module)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Returns False: in custom code transformers does not initialise a module without parameters of its own.

        Buffers that such a module of a backbone fills in other modules (Falcon H1) would stay uninitialised.
        """
        return False

    # ----------------------------------------------------------------- embeddings, checkpointed layers

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refuses: the vocabulary of the language model is frozen.

        Raises:
            ValueError: Always.
        """
        raise ValueError("the vocabulary of the language model is frozen: tokens are added by config.new_token_ids")

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the input embeddings of the language model, without the new tokens."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear:
        """Returns the output head of the language model, without the new tokens."""
        return self.language_model.get_output_embeddings()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = torch.utils.checkpoint.checkpoint, **kwargs: Any
    ) -> None:
        if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ValueError("gradient checkpointing with use_reentrant=True would lose the gradients of the fusion")
        super()._set_gradient_checkpointing(enable, self.fusion.checkpointing(gradient_checkpointing_func), **kwargs)
        self.train(self.training)  # layers, even frozen ones, recompute in training mode only
        # Up to transformers 5.17 a layer's checkpoint contains its hooks, and therefore the fusion's blocks. Newer
        # versions leave the hooks outside. Checkpoints must not be nested.
        if "__call__" in vars(GradientCheckpointingLayer):
            for module in self.fusion.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.gradient_checkpointing = False

    # ------------------------------------------------------------------------------ forward pass

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "bn t"],
        attention_mask: Int[Tensor, "bn s"] | Bool[Tensor, "bn 1 t s"] | dict | None = None,
        image_index: Int[Tensor, "bn t"] | None = None,
        pixel_values: Float[Tensor, "b m c h w"] | Float[Tensor, "b m f c h w"] | None = None,
        image_features: Float[Tensor, "b m f p v"] | None = None,
        visual_tokens: Float[Tensor, "b m r width"] | None = None,
        visual_state: VisualState | None = None,
        labels: Int[Tensor, "bn t"] | None = None,
        position_ids: Int[Tensor, "bn t"] | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        num_items_in_batch: int | Int[Tensor, ""] | None = None,
        image_places: Int[Tensor, " places"] | None = None,
        label_places: Int[Tensor, " labels"] | None = None,
        visual_index: Int[Tensor, "bn t"] | None = None,
        segment_ids: Int[Tensor, "bn t"] | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Returns the logits and, with ``labels``, the mean next-token loss (nats) over the labels that are not -100.

        The images are given once: as pixels, as features of the frozen encoder, as the result of :meth:`encode_images`
        or as that of :meth:`visual_state`.

        Args:
            input_ids: The token ids.
            attention_mask: 1 for tokens, 0 for padding; with four axes prepared by transformers for a cache of fixed
                size. None: there is no padding.
            image_index: The image that each token sees, -1 for none; the processor makes it.
            pixel_values: The images as pixels.
            image_features: The images as features of the frozen encoder.
            visual_tokens: The images as visual tokens.
            visual_state: The images as the language model's inputs.
            labels: The tokens to predict; -100: not counted.
            position_ids: The positions of the tokens; None: counted by the mask.
            past_key_values: The cache of earlier tokens.
            logits_to_keep: As in transformers.
            num_items_in_batch: The ``count`` of :func:`next_token_loss`.
            image_places: The places among ``[b m]`` that hold an image. They come with a batch that the collation has
                checked: the forward pass then reads nothing back from the device. None: ids and ``image_index`` are
                checked here, unless earlier tokens are cached.
            label_places: The places among ``[bn t]`` whose next token is a label. They come with a batch like
                ``image_places``. If the batch has large logits, only the loss is then computed, in chunks
                (:mod:`flamingo.model.chunked_loss`), and the outputs have no logits. None: the outputs have logits.
            visual_index: The visual token at each position, -1 for text, if visual tokens take the place of markers.
                None: markers are counted, and ``input_ids`` must begin with text or with an image's first marker.
            segment_ids: The document of each token in a row of packed documents (:mod:`flamingo.data.packing`), in
                place of ``attention_mask`` and with ``position_ids``.
            cu_seqlens: The bounds of all packed documents in the concatenated rows, which varlen attention needs.
            **kwargs: Arguments of the language model.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        if labels is not None:
            kwargs.setdefault("use_cache", False)
        given = (pixel_values, image_features, visual_tokens, visual_state)
        images = dict(zip(IMAGE_ARGUMENTS, given, strict=True))
        check = image_places is None and past_key_values is None
        if check:
            self.new_tokens.known_ids.check(input_ids)
        context = self.visual_context(input_ids, image_index, images, image_places, check, visual_index)
        if segment_ids is not None:
            self._check_packing()
            assert position_ids is not None, "packed documents have position_ids"
            hidden = context.hidden(position_ids)
            attention_mask = packed_mask(self.packed_attention, segment_ids, cu_seqlens, hidden)
        elif image_places is not None and past_key_values is None:
            assert not isinstance(attention_mask, dict), "a checked batch has a mask of tokens, or none"
            if position_ids is None:
                position_ids = positions(full_mask(input_ids, None) if attention_mask is None else attention_mask)
            attention_mask = row_mask(self.language_model, input_ids, attention_mask, context.visual_index is not None)
        elif attention_mask is None and context.visual_index is not None:
            attention_mask = full_mask(input_ids, past_key_values)
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2 and position_ids is None:
            position_ids = positions(attention_mask)[:, -input_ids.shape[1] :]
        targets = None
        if labels is not None and label_places is not None and self._has_large_logits(input_ids):
            targets = targets_of(labels, label_places)
        if isinstance(past_key_values, PromptCache) and past_key_values.forked:
            outputs = self._forward_beams(past_key_values, input_ids, attention_mask, position_ids, context, kwargs)
        else:
            outputs = self._forward_text(
                input_ids, attention_mask, position_ids, past_key_values, logits_to_keep, context, kwargs, targets
            )
        loss = outputs.loss
        if loss is not None:
            assert targets is not None
            loss = loss / (max(len(targets.ids), 1) if num_items_in_batch is None else num_items_in_batch)
        elif labels is not None:
            loss = next_token_loss(outputs.logits, labels, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss, outputs.logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions
        )

    def _forward_text(
        self,
        input_ids: Tensor,
        attention_mask: Any,
        position_ids: Tensor | None,
        past_key_values: Any,
        logits_to_keep: int | Tensor,
        context: VisualContext,
        kwargs: dict[str, Any],
        targets: Targets | None = None,
    ) -> CausalLMOutputWithPast:
        """Returns the outputs of the language model with the images of ``context``.

        With ``targets`` they have the sum of their losses in place of logits, if the language model allows it.

        Raises:
            ValueError: For an unknown argument.
        """
        known = self._language_model_arguments | TransformersKwargs.__annotations__.keys() | {"use_cache"}
        unknown = kwargs.keys() - known
        if unknown:
            raise ValueError(f"neither Flamingo nor its language model has the argument {', '.join(sorted(unknown))}")
        if context.visual_index is not None:
            assert position_ids is not None
            attention_mask = without_hidden(attention_mask, context.hidden(position_ids))
        arguments = kwargs | {"attention_mask": attention_mask, "logits_to_keep": logits_to_keep}
        if "position_ids" in self._language_model_arguments:  # MPT has none
            arguments["position_ids"] = position_ids
        if "past_key_values" in self._language_model_arguments:
            arguments["past_key_values"] = past_key_values
        else:  # OpenAI GPT has no cache
            arguments.pop("use_cache", None)
        token_embeddings = self.new_tokens.embed(input_ids, self.get_input_embeddings())
        embeddings = self.fusion.embed(token_embeddings, context)
        if targets is not None and self.new_token_logits.function(self.language_model, token_embeddings) is None:
            targets = None
        own_precision = in_own_precision(self.language_model, embeddings.device)
        # The fusion is attached first: its blocks keep the autocast of this place.
        with self.new_token_logits.attached(targets), self.fusion.attached(context), own_precision:
            outputs = self.language_model(inputs_embeds=embeddings, **arguments)
        return CausalLMOutputWithPast(
            loss=None if targets is None else self.new_token_logits.loss(outputs.logits),
            logits=outputs.logits if targets is None else None,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _forward_beams(
        self,
        cache: PromptCache,
        input_ids: Tensor,
        attention_mask: Any,
        position_ids: Tensor | None,
        context: VisualContext,
        kwargs: dict[str, Any],
    ) -> CausalLMOutputWithPast:
        """Returns the outputs for one token of every beam. The beams of a prompt share a row of the cache."""
        assert position_ids is not None
        visible = None if attention_mask is None else cache.merge_beams(attention_mask[:, -1:])
        visual_index = None if context.visual_index is None else cache.merge_beams(context.visual_index)
        ids, position_ids, mask = (
            cache.merge_beams(input_ids),
            cache.merge_beams(position_ids),
            cache.append_mask(visible),
        )
        if cache.step is not None:
            logits = cache.step(ids, mask, position_ids)
            return CausalLMOutputWithPast(logits=cache.split_beams(logits), past_key_values=cache)
        outputs = self._forward_text(
            ids,
            mask,
            position_ids,
            cache,
            0,
            VisualContext(context.state, cache.merge_beams(context.image_index), visual_index),
            kwargs,
        )
        outputs.logits = cache.split_beams(outputs.logits)
        if outputs.hidden_states is not None:
            outputs.hidden_states = tuple(map(cache.split_beams, outputs.hidden_states))
        return outputs

    def _has_large_logits(self, input_ids: Tensor) -> bool:
        """Returns whether the loss is computed in chunks, where the language model allows it."""
        vocabulary = max(self.new_tokens.vocab_size, self.new_tokens.ids_end)
        return input_ids.numel() * vocabulary * torch.float32.itemsize > WHOLE_LOGITS_BYTES

    def takes_prepared_masks(self) -> bool:
        """Returns whether the language model takes positions and any mask, and attends to all tokens."""
        return PromptCache.supports(self.language_model, self._language_model_arguments)

    def _check_packing(self) -> None:
        if not self.takes_prepared_masks():
            raise UserError(
                "packed documents need a language model that takes position_ids, with sdpa attention over all tokens: "
                "this one does not; leave documents unpacked (data.documents.*.pack_to=0)"
            )
        if not self.fusion.sees_by_index:
            raise UserError('packed documents need fusion.attend="last": otherwise they see images of one another')
