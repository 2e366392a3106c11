"""Flamingo: composition of the parts, forward pass, and generation."""

from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import TransformersKwargs, can_return_tuple, logging

from flamingo.model.cache import PromptCache
from flamingo.model.composition import check_composition, check_record
from flamingo.model.config import FlamingoConfig
from flamingo.model.connectors import CONNECTORS
from flamingo.model.encoders import make_vision_model
from flamingo.model.fusion.cross_attention import (
    GatedCrossAttentionBlock,
    Splice,
    VisualContext,
    VisualState,
    seen_images,
)
from flamingo.model.generation import FlamingoGeneration
from flamingo.model.initialization import initialize
from flamingo.model.language import check_interface, forward_arguments, load_text_model, make_text_model
from flamingo.model.modes import evaluate_frozen
from flamingo.model.pretrained import (
    GIVEN_BY,
    beside,
    check_unchanged,
    is_quantised,
    load_referenced_backbones,
    load_trained_parts,
    load_vision_model,
    origin,
)
from flamingo.model.tokens import NewTokenEmbeddings
from flamingo.model.vision import encode_patches, feature_width
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.kinds import class_of

logger = logging.get_logger(__name__)

BACKBONES = ("vision_model", "language_model")
TRAINED_PARTS = ("connector", "gated_layers", "new_tokens")


class FlamingoForConditionalGeneration(PreTrainedModel, FlamingoGeneration, GenerationMixin):
    """Frozen vision encoder -> connector -> gated cross-attention in a frozen language model."""

    config_class = FlamingoConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # New parts and their optimizer state stay in fp32 (Flamingo, appendix B.1.2), whatever the frozen
    # parts are loaded in; `.to(torch.bfloat16)` afterwards converts everything.
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["connector", "gated_layers", "input_rows", "output_rows"]

    vision_model: PreTrainedModel
    language_model: PreTrainedModel
    #: The modules of the backbones when they were checked; None where they never were, and are not to be.
    _checked: frozenset[str] | None = None

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
        # One configuration, not two that drift apart: each backbone knows best what it was loaded with.
        config.vision_config, config.text_config = self.vision_model.config, self.language_model.config
        if config.vision_width is None:
            config.vision_width = feature_width(self.vision_model, config.vision_features)
        text = self.language_model.config
        self.connector = class_of(CONNECTORS, config.connector.kind)(config.vision_width, config.connector)
        self.gated_layers = nn.ModuleDict(
            {
                str(index): GatedCrossAttentionBlock(text.hidden_size, self.connector.width, config.fusion)
                for index in config.gated_layer_indices
            }
        )
        # Asked here, because what may wrap the language model later (peft) hides its signature.
        self._language_model_arguments = forward_arguments(self.language_model)
        embedding, head = self.get_input_embeddings(), self.get_output_embeddings()
        self.new_tokens = NewTokenEmbeddings(
            config.new_token_ids,
            vocabulary=embedding.weight.shape[0],
            input_width=embedding.weight.shape[1],
            output_width=head.weight.shape[1],
            tied=getattr(text, "tie_word_embeddings", False),
        )
        self._splice = Splice(self.language_model, self.gated_layers, self.new_tokens)
        self.post_init()
        self.freeze_backbones()

    # ---------------------------------------------------------------- composition, loading, saving

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | Path,
        text_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str = "auto",
        vision_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
        check: bool = True,
        **flamingo_config: Any,
    ) -> "FlamingoForConditionalGeneration":
        """Put a new Flamingo together from two pretrained backbones, whose new parts are untrained.

        ``flamingo_config`` are the fields of :class:`FlamingoConfig`; ``new_token_ids`` usually are
        ``processor.new_token_ids``. ``dtype`` is that of the frozen backbones; ``vision_kwargs`` and
        ``text_kwargs`` (``revision``, ``attn_implementation``, ...) go to their ``from_pretrained``. ``check=False``
        leaves out :func:`flamingo.model.composition.check_composition`.

        Raises UserError for backbones that cannot be composed.
        """
        FlamingoConfig.check_keys(flamingo_config)
        vision_kwargs, text_kwargs = vision_kwargs or {}, text_kwargs or {}
        vision_model = load_vision_model(vision_model_name_or_path, **{"dtype": dtype, **vision_kwargs})
        language_model = load_text_model(text_model_name_or_path, **{"dtype": dtype, **text_kwargs})
        origins = {
            part: origin(part, model, name, kwargs.get("revision"))
            for part, model, name, kwargs in (
                ("vision_model", vision_model, vision_model_name_or_path, vision_kwargs),
                ("language_model", language_model, text_model_name_or_path, text_kwargs),
            )
        }
        config = FlamingoConfig(
            vision_config=vision_model.config,
            text_config=language_model.config,
            **{"backbones": origins, **flamingo_config},
        )
        if not config.new_token_ids:
            logger.warning("no new_token_ids: the embeddings of <image> and <|endofchunk|> are not going to be trained")
        model = cls(config, vision_model, language_model)
        model.new_tokens.start_from_mean(model.get_input_embeddings(), model.get_output_embeddings())
        if language_model.generation_config is not None:
            model.generation_config = language_model.generation_config
        model._begin_checks(check)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. Backbones that the checkpoint leaves out are loaded by name and compared.

        For these ``vision_kwargs`` and ``text_kwargs`` (``quantization_config``, ``device_map``, ...) go to their
        own ``from_pretrained``, and ``vision_model_name_or_path`` and ``text_model_name_or_path`` say where they lie,
        if not where the checkpoint names them. The composition is checked
        (:func:`flamingo.model.composition.check_composition`) unless the checkpoint records that it passed with the
        same versions, kernels and precision, or ``check=False``.
        """
        check = kwargs.pop("check", True)
        hub = {k: kwargs[k] for k in ("revision", "cache_dir", "token", "local_files_only", "subfolder") if k in kwargs}
        saved = from_pretrained(FlamingoConfig, pretrained_model_name_or_path, "checkpoint", **hub)
        backbone_kwargs = {key: kwargs.pop(key, None) or {} for key in ("vision_kwargs", "text_kwargs")}
        given = {part: kwargs.pop(argument, None) for part, argument in GIVEN_BY.items()}
        if saved.backbones_included:
            if any(backbone_kwargs.values()) or any(given.values()):
                names = ", ".join(("vision_kwargs", "text_kwargs", *GIVEN_BY.values()))
                raise ValueError(f"{names} are for checkpoints that leave their backbones out")
            if kwargs.get("quantization_config") is not None:
                raise ValueError(
                    "quantization_config would reach the trained parts, too: save the model with "
                    'include_backbones=False, and load it with text_kwargs={"quantization_config": ...}'
                )
            with_info = kwargs.pop("output_loading_info", False)
            report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            model, info = from_pretrained(
                super(), pretrained_model_name_or_path, "checkpoint", *args, **report, **kwargs
            )
            if problems := {name: sorted(map(str, keys)) for name, keys in info.items() if keys}:
                raise UserError(f"the weights in {pretrained_model_name_or_path} do not fit: {problems}")
            model.freeze_backbones()
            model._begin_checks(check)
            return (model, info) if with_info else model
        load = {k: kwargs[k] for k in ("dtype", "attn_implementation") if k in kwargs and kwargs[k] != "auto"}
        allowed = {"config", "dtype", "adapter_kwargs", *hub, *load}
        if unused := {k for k, v in kwargs.items() if v} - allowed:
            raise ValueError(f"{sorted(unused)} cannot be used with a checkpoint that leaves its backbones out")
        config = deepcopy(kwargs.get("config") or saved)  # it may be another model's
        config.backbones = saved.backbones
        backbones = load_referenced_backbones(config, pretrained_model_name_or_path, given, **backbone_kwargs, **load)
        model = cls(config, *backbones)
        load_trained_parts(model, pretrained_model_name_or_path, BACKBONES, **hub)
        config.backbones_included = True
        with suppress(OSError):  # a checkpoint need not have one
            model.generation_config = GenerationConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        model._begin_checks(check)
        return model.eval()

    def _begin_checks(self, check: bool) -> None:
        """Check the composition now, unless its config records that it passed, and whenever its backbones change.

        A language model that was loaded onto an accelerator takes the trained parts there.
        """
        for part in TRAINED_PARTS:
            getattr(self, part).to(self.get_input_embeddings().weight.device)
        if check and self.config.passed_check != check_record(self):
            check_composition(self)
        self._checked = self._backbone_modules() if check else None

    def _backbone_modules(self) -> frozenset[str]:
        """Names of all modules of the backbones. An adapter adds some."""
        return frozenset(name for part in BACKBONES for name, _ in getattr(self, part).named_modules(prefix=part))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in BACKBONES and self._checked is not None:
            check_composition(self)
            self._checked = self._backbone_modules()

    def save_pretrained(self, save_directory: Any, *args: Any, include_backbones: bool = True, **kwargs: Any) -> None:
        """As in transformers. Without its frozen backbones a checkpoint names them and keeps a fingerprint."""
        if self.config.backbones is not None:
            self.config.backbones = beside(self.config.backbones, Path(save_directory))
        if include_backbones:
            if quantised := [part for part in BACKBONES if is_quantised(getattr(self, part))]:
                raise UserError(f"a quantised {quantised[0]} cannot be saved; include_backbones=False names it")
            return super().save_pretrained(save_directory, *args, **kwargs)
        if "max_shard_size" in kwargs:
            raise ValueError("a checkpoint without its backbones is one file: max_shard_size cannot be chosen")
        check_unchanged(self.config, {part: getattr(self, part) for part in BACKBONES})
        state = kwargs.pop("state_dict", None) or self.state_dict()
        state = {key: value for key, value in state.items() if not key.startswith(BACKBONES)}
        self.config.backbones_included = False
        try:
            return super().save_pretrained(save_directory, *args, state_dict=state, max_shard_size="10TB", **kwargs)
        finally:
            self.config.backbones_included = True

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.connector or isinstance(module, GatedCrossAttentionBlock):
            module.reset_parameters()
        else:
            initialize(module)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: of custom code transformers does not initialise a module without parameters of its own.

        Buffers that such a module of a backbone fills in other modules (Falcon H1) would keep whatever the memory held.
        """
        return False

    # ------------------------------------------------------------------------------- what trains

    def freeze_backbones(self) -> None:
        """Take the vision encoder and the language model out of training."""
        for part in BACKBONES:
            getattr(self, part).requires_grad_(False)
        self.train(self.training)

    def train_parts(self, parts: Collection[str]) -> None:
        """Let these parts train and no others; by default all but the two backbones do.

        Whoever trains a backbone has to save the model with it. Batch norms of a vision encoder that trains keep the
        running statistics that they came with. Raises ValueError for a part that there is not.
        """
        if unknown := set(parts) - {*BACKBONES, *TRAINED_PARTS}:
            raise ValueError(f"parts are {', '.join((*BACKBONES, *TRAINED_PARTS))}; got {', '.join(sorted(unknown))}")
        for part in (*BACKBONES, *TRAINED_PARTS):
            getattr(self, part).requires_grad_(part in parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FlamingoForConditionalGeneration":
        """Training mode for what trains; frozen parts stay in evaluation mode (:mod:`flamingo.model.modes`)."""
        super().train(mode)
        for part in BACKBONES:
            evaluate_frozen(getattr(self, part))
        if self._checked is not None and self._checked != (modules := self._backbone_modules()):
            check_composition(self)  # an adapter was put into a backbone
            self._checked = modules
        return self

    def trainable_parameter_names(self) -> list[str]:
        """Names of all parameters that train: everything else gets neither gradient nor optimizer state."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part; shared ones count once."""
        return {
            part: sum(parameter.numel() for parameter in getattr(self, part).parameters())
            for part in (*BACKBONES, *TRAINED_PARTS)
        }

    def extra_repr(self) -> str:
        counts = self.parameter_counts()
        rows = [f"{part}: {n:,} parameters{' (frozen)' if part in BACKBONES else ''}" for part, n in counts.items()]
        return "\n".join(rows)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        raise ValueError("the vocabulary of the language model is frozen: tokens are added by config.new_token_ids")

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear:
        return self.language_model.get_output_embeddings()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = torch.utils.checkpoint.checkpoint, **kwargs: Any
    ) -> None:
        if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "gradient checkpointing with use_reentrant=True would lose the gradients of the gated blocks"
            )
        super()._set_gradient_checkpointing(enable, self._splice.checkpointing(gradient_checkpointing_func), **kwargs)
        self.train(self.training)  # layers recompute in training mode, also frozen ones
        # Up to transformers 5.17 a layer's checkpoint contains its hooks, and so the gated block before
        # it; newer ones leave the hooks outside. Checkpoints are not to be nested.
        if "__call__" in vars(GradientCheckpointingLayer):
            for block in self.gated_layers.values():
                block.gradient_checkpointing = False  # type: ignore[assignment]

    # ------------------------------------------------------------------------------ forward pass

    def encode_images(
        self, pixel_values: Float[Tensor, "b m c h w"] | Float[Tensor, "b m f c h w"]
    ) -> Float[Tensor, "b m r v"]:
        """Visual tokens of every image: frozen features, then the connector."""
        if pixel_values.ndim not in (5, 6):
            raise ValueError(f"pixel_values must be [b m c h w] or [b m f c h w], got {list(pixel_values.shape)}")
        if not pixel_values.is_floating_point():
            raise ValueError("pixel_values are bytes: processor.normalized(batch) makes them what the encoder takes")
        if pixel_values.ndim == 5:
            pixel_values = rearrange(pixel_values, "b m c h w -> b m 1 c h w")
        b, m, f = pixel_values.shape[:3]
        if m == 0:
            return self.no_visual_tokens(b)
        flat = rearrange(pixel_values, "b m f c h w -> (b m f) c h w").to(self.vision_model.dtype)
        trains = any(parameter.requires_grad for parameter in self.vision_model.parameters())
        with nullcontext() if trains else torch.no_grad():
            features = encode_patches(self.vision_model, flat, self.config.vision_features)
        return self.resample(rearrange(features, "(b m f) p v -> b m f p v", b=b, m=m, f=f))

    def resample(self, image_features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m r v"]:
        """Visual tokens of frozen features that are at hand already: see :mod:`flamingo.inference.features`."""
        if image_features.shape[-1] != self.config.vision_width:
            raise ValueError(
                f"image_features [b m f p v] are {image_features.shape[-1]} wide, but v is {self.config.vision_width}"
            )
        if image_features.shape[1] == 0:
            return self.no_visual_tokens(len(image_features))
        return self.connector(image_features.to(self._connector_dtype))

    def _only_seen(self, encode: Callable[[Tensor], Tensor], images: Tensor, image_index: Tensor) -> Tensor:
        """Visual tokens [b m r v] of the images that some token sees; zeros for the others, such as padding."""
        b, m = images.shape[:2]
        if len(image_index) % b:
            return encode(images)  # refused further on
        seen = seen_images(image_index, b, m, self.config.fusion.attend)
        if seen.all():
            return encode(images)
        tokens = encode(images[seen].unsqueeze(0))[0]
        return tokens.new_zeros(b, m, *tokens.shape[1:]).index_put((seen,), tokens)

    def no_visual_tokens(self, documents: int) -> Float[Tensor, "b 0 r v"]:
        """Empty visual tokens. ``r`` is a placeholder of 1 where the connector keeps all patches."""
        r = self.connector.num_tokens(patches=1, frames=1)
        device = next(self.parameters()).device
        return torch.zeros(documents, 0, r, self.connector.width, dtype=self._connector_dtype, device=device)

    @property
    def _connector_dtype(self) -> torch.dtype:
        return next(self.connector.parameters()).dtype

    def visual_state(self, visual_tokens: Float[Tensor, "b m r v"]) -> VisualState:
        """Keys and values of all images for each gated block, computed once and kept while decoding."""
        return [block.keys_values(visual_tokens) for block in self.gated_layers.values()]  # type: ignore[operator]

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "bn t"],
        attention_mask: Int[Tensor, "bn s"] | Bool[Tensor, "bn 1 t s"] | dict | None = None,
        image_index: Int[Tensor, "bn t"] | None = None,
        pixel_values: Float[Tensor, "b m c h w"] | Float[Tensor, "b m f c h w"] | None = None,
        image_features: Float[Tensor, "b m f p v"] | None = None,
        visual_tokens: Float[Tensor, "b m r v"] | None = None,
        visual_state: VisualState | None = None,
        labels: Int[Tensor, "bn t"] | None = None,
        position_ids: Int[Tensor, "bn t"] | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and with ``labels`` the mean next-token loss over those that are not -100.

        ``image_index`` says which image a token sees (-1 for none); the processor makes it. Images
        come as pixels, as the frozen encoder's features, as visual tokens (:meth:`encode_images`) or as
        :meth:`visual_state`; without any, the text sees none. An ``attention_mask`` that is not [bn s] is that of
        packed documents (:mod:`flamingo.data.packing`), or one that transformers has prepared for a cache
        of fixed size. ``num_items_in_batch``: see
        :func:`next_token_loss`. Further arguments go to the language model. Raises ValueError where these
        do not fit together.
        """
        if labels is not None:
            kwargs.setdefault("use_cache", False)
        state, image_index = self._images(
            input_ids, image_index, pixel_values, image_features, visual_tokens, visual_state
        )
        if position_ids is None and isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            position_ids = _positions(attention_mask)[:, -input_ids.shape[1] :]
        if past_key_values is None and isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
            self._check_packing()
        known = self._language_model_arguments | TransformersKwargs.__annotations__.keys() | {"use_cache"}
        if unknown := kwargs.keys() - known:
            raise ValueError(f"neither Flamingo nor its language model has the argument {', '.join(sorted(unknown))}")
        if "position_ids" in self._language_model_arguments:  # MPT has none
            kwargs["position_ids"] = position_ids
        if "past_key_values" in self._language_model_arguments:
            kwargs["past_key_values"] = past_key_values
        else:  # OpenAI GPT: it has no cache
            kwargs.pop("use_cache", None)
        branches = past_key_values if isinstance(past_key_values, PromptCache) and past_key_values.branched else None
        if branches is not None:
            assert position_ids is not None
            kwargs["position_ids"] = branches.beside(position_ids)
            input_ids, image_index = branches.beside(input_ids), branches.beside(image_index)
            attention_mask, logits_to_keep = branches.step(), 0
        with self._splice.forward_pass(VisualContext(state, image_index)):
            outputs = self.language_model(
                inputs_embeds=self.new_tokens.embed(input_ids, self.get_input_embeddings()),
                attention_mask=attention_mask,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        logits, hidden_states = outputs.logits, outputs.hidden_states
        if branches is not None:
            logits = branches.apart(logits)
            hidden_states = hidden_states and tuple(map(branches.apart, hidden_states))
        return CausalLMOutputWithPast(
            loss=None if labels is None else next_token_loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=hidden_states,
            attentions=outputs.attentions,
        )

    def _check_packing(self) -> None:
        if not PromptCache.serves(self.language_model, self._language_model_arguments):
            raise UserError(
                "packed documents need a language model that is told positions, with sdpa attention over all tokens, "
                "and this one is none: leave documents unpacked (data.documents.*.pack_to=0)"
            )
        if self.config.fusion.attend != "last":
            raise UserError('packed documents need fusion.attend="last": others would see images of one another')

    def _images(
        self,
        input_ids: Tensor,
        image_index: Tensor | None,
        pixel_values: Tensor | None,
        image_features: Tensor | None,
        visual_tokens: Tensor | None,
        visual_state: VisualState | None,
    ) -> tuple[VisualState, Tensor]:
        """Whatever the images came as, their keys and values; and an ``image_index`` that fits them."""
        ways = (pixel_values, image_features, visual_tokens, visual_state)
        given = sum(images is not None for images in ways)
        if given > 1:
            raise ValueError("give images once: as pixel_values, image_features, visual_tokens or visual_state")
        if image_index is None:
            if given:
                raise ValueError("images need an image_index, which says which of them each token sees")
            image_index = torch.full_like(input_ids, -1)
        if image_index.shape != input_ids.shape:
            raise ValueError(
                f"image_index {list(image_index.shape)} must have the shape of input_ids {list(input_ids.shape)}"
            )
        if visual_state is None:
            if pixel_values is not None:
                visual_tokens = self._only_seen(self.encode_images, pixel_values, image_index)
            elif image_features is not None:
                visual_tokens = self._only_seen(self.resample, image_features, image_index)
            if visual_tokens is None:
                visual_tokens = self.no_visual_tokens(len(input_ids))
            if visual_tokens.shape[-1] != self.connector.width:
                raise ValueError(
                    f"visual_tokens [b m r v] are {visual_tokens.shape[-1]} wide, but v is {self.connector.width}"
                )
            visual_state = self.visual_state(visual_tokens)
        documents, images = visual_state[0][0].shape[:2]
        if len(input_ids) % documents:
            raise ValueError(f"{len(input_ids)} rows of text cannot share the images of {documents} documents evenly")
        # On an accelerator this comparison would wait for the device; there the lookup itself fails.
        if not image_index.is_cuda and int(image_index.max()) >= images:
            raise ValueError(f"image_index names image {int(image_index.max())}, but each document has {images}")
        return visual_state, image_index


def next_token_loss(
    logits: Float[Tensor, "b t vocabulary"], labels: Int[Tensor, "b t"], count: int | Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of each label given the tokens before it; 0 where every label is -100.

    The mean is over the labels that are not -100, or over ``count``: the number of such labels in
    all batches that make one update, so that accumulated gradients weigh every token alike.
    """
    # The labels are shifted, not the logits, of which there need not be a second copy.
    targets = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=-100, reduction="sum")
    return total / ((targets != -100).sum().clamp(min=1) if count is None else count)


def _positions(attention_mask: Int[Tensor, "bn s"]) -> Int[Tensor, "bn s"]:
    """Positions that count real tokens only, so that padding on the left is harmless."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
