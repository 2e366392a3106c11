"""Causal language models of transformers: loading, checks of the interface, new tokens."""

import importlib
from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from flamingo.model.layers import repeated_layers
from flamingo.model.mosaic_gpt import MosaicGPTForCausalLM
from flamingo.model.mosaic_gpt_config import MosaicGPTConfig
from flamingo.model.weights_loading import hub_arguments, int8_arguments, load_weights
from flamingo.utils.device_names import INT8
from flamingo.utils.devices import META
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.token_ids import TokenIds

AutoModelForCausalLM.register(MosaicGPTConfig, MosaicGPTForCausalLM)

#: The name of the part in errors.
_PART = "language model"

#: The names of the arguments for the state of recurrent models.
_RECURRENT_STATE = ("cache_params", "state")


def load_text_model(
    name_or_path: str | Path, load: Callable[..., PreTrainedModel] = load_weights, **kwargs: Any
) -> PreTrainedModel:
    """Returns a causal language model without dropout; of a multimodal model, its text part.

    Args:
        name_or_path: A folder, a name on the hub, or a GGUF file.
        load: Loads the model. :func:`flamingo.model.sharded_loading.defer_weights` leaves its weights on meta.
        **kwargs: Further arguments of ``from_pretrained``. With ``dtype="int8"`` linear layers are quantised.

    Raises:
        UserError: If there is no such model, or its weights do not fit.
    """
    if kwargs.get("dtype") == INT8:
        if str(name_or_path).endswith(".gguf"):
            raise UserError(f"{name_or_path}: a GGUF file cannot be loaded with dtype={INT8}")
        kwargs |= int8_arguments()
    if str(name_or_path).endswith(".gguf") and hasattr(transformers, "GgufConfig"):
        # Weights in GGUF's quantised blocks can be neither saved nor compared.
        kwargs.setdefault("quantization_config", transformers.GgufConfig(dequantize=True))
    config = without_dropout(from_pretrained(AutoConfig, name_or_path, _PART, **hub_arguments(kwargs)))
    text_config = _text_config(config)
    text_class = _causal_class(text_config)
    if text_config is config:
        return load(AutoModelForCausalLM, name_or_path, _PART, config=config, **kwargs)
    multimodal = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    loader = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
    whole = load(loader, name_or_path, _PART, config=config, **kwargs)
    return whole if isinstance(whole, text_class) else _text_part(whole, text_class)


def make_text_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a causal language model with random weights, without dropout; of a multimodal config, its text part."""
    text_config = _text_config(without_dropout(config))
    return _causal_class(text_config)._from_config(text_config)


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns ``config`` after setting every dropout and layer-drop rate to 0, also in nested configs."""
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            without_dropout(value)
        elif "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    return config


def _text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns the config of the text model of a multimodal config, otherwise the config itself."""
    text_config = config.get_text_config(decoder=True)
    # A model with an encoder and a decoder returns a copy of its own config.
    return config if text_config.model_type == config.model_type else text_config


def _causal_class(config: PreTrainedConfig) -> Any:
    """Returns the class of causal language models with this config.

    The text parts of some multimodal models (Emu3, Mllama) are not in transformers' automatic classes: their class is
    found in the module of the whole model.

    Raises:
        UserError: If transformers has no such class, or its class ignores a part of the config.
    """
    if config.model_type == "mpt" and config.attn_config.qk_ln:
        raise UserError(
            "transformers' MPT ignores attn_config.qk_ln=True and would compute other logits; a checkpoint of "
            "MosaicML's MPT-1B has model_type=mosaic_gpt, which is supported"
        )
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    for name, kind in vars(module).items():
        if name.endswith("ForCausalLM") and getattr(kind, "config_class", None) is type(config):
            return kind
    raise UserError(f"transformers has no causal language model of the model type {config.model_type}")


def _text_part(whole: PreTrainedModel, text_class: Any) -> PreTrainedModel:
    """Returns a language model of the text model and the output head of a multimodal model.

    Raises:
        UserError: If the text model is not of this class.
    """
    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    if isinstance(decoder, text_class):
        return decoder
    with META:
        model = text_class._from_config(decoder.config)
    names = [name for name, child in model.named_children() if type(child) is type(decoder)]
    if len(names) != 1 or head is None:
        raise UserError(
            f"the text model of a {type(whole).__name__} is not a {text_class.__name__}, so it cannot be used alone"
        )
    setattr(model, names[0], decoder)
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight
    model.generation_config = whole.generation_config
    for attribute in ("hf_quantizer", "deferred_weights"):
        if getattr(whole, attribute, None) is not None:
            setattr(model, attribute, getattr(whole, attribute))
    return model.eval()


def check_interface(language_model: PreTrainedModel) -> None:
    """Checks that gated blocks and new tokens can be attached to this model.

    Raises:
        UserError: If they cannot.
    """
    name, config = type(language_model).__name__, language_model.config
    arguments = forward_arguments(language_model)
    if "inputs_embeds" not in arguments:
        raise UserError(f"{name} takes no inputs_embeds, which the new tokens need")
    recurrent = [argument for argument in _RECURRENT_STATE if argument in arguments]
    if recurrent:
        raise UserError(
            f"{name} is a recurrent model: it continues from a recurrent state ({recurrent[0]}) instead of a cache of "
            "keys and values"
        )
    if "use_cache" in arguments and "past_key_values" not in arguments:
        raise UserError(f"{name} keeps its cache inside its modules, where beams cannot be reordered")
    if getattr(config, "hidden_size_per_layer_input", None):
        raise UserError(
            f"{name} has per-layer inputs by token id (hidden_size_per_layer_input), which embeddings do not contain"
        )
    if language_model.get_output_embeddings() is None:
        raise UserError(f"{name} has no output head, to which the new tokens' logits could be added")
    repeated_layers(language_model)


def forward_arguments(language_model: PreTrainedModel) -> frozenset[str]:
    """Returns the names of the forward pass's arguments, including those that ``**kwargs`` pass to the base model."""
    parameters = signature(language_model.forward).parameters
    names = set(parameters)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        names |= set(signature(language_model.base_model.forward).parameters)
    return frozenset(names)


def has_plain_cache(language_model: Any) -> bool:
    """Returns whether the cache holds only keys and values of tokens, so that its rows can be repeated.

    The caches of linear attention and Mamba layers, and caches of a model's own class, are not plain.

    Args:
        language_model: A transformers model, or one that peft has wrapped.
    """
    if not language_model._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=language_model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


class NewTokenEmbeddings(nn.Module):
    """Trained embedding rows for the tokens that Flamingo adds to a frozen vocabulary.

    The rows are read at the language model's input and scored at its output. Only these rows are parameters: the
    language model's own rows get neither gradients nor optimizer state (frozen random rows for the new tokens cost
    OpenFlamingo 4.6 CIDEr). An id may lie beyond the vocabulary, or within it, where it replaces a padding row.
    """

    token_ids: Int[Tensor, " new"]

    def __init__(self, token_ids: list[int], vocab_size: int, input_width: int, output_width: int, tied: bool) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.ids_end = max(token_ids, default=-1) + 1
        #: Whether a new token takes the place of a row of the vocabulary.
        self.replaces_rows = min(token_ids, default=vocab_size) < vocab_size
        self.known_ids = TokenIds(vocab_size, tuple(token_ids))
        self.register_buffer("token_ids", torch.tensor(token_ids, dtype=torch.long))
        self.input_rows = nn.Parameter(torch.empty(len(token_ids), input_width))
        self.output_rows = None if tied else nn.Parameter(torch.empty(len(token_ids), output_width))

    @torch.no_grad()
    def start_from(self, input_row: Float[Tensor, " d"], output_row: Float[Tensor, " d"]) -> None:
        """Sets every new row. From the means of the language model's rows a token is as likely as an average one."""
        self.input_rows.copy_(input_row)
        if self.output_rows is not None:
            self.output_rows.copy_(output_row)

    def embed(self, ids: Int[Tensor, "bn t"], embedding: nn.Embedding) -> Float[Tensor, "bn t d"]:
        """Returns the embeddings of ``ids``: the language model's rows, and ours for the new tokens, scaled alike.

        ``ids`` are among :attr:`known_ids`.
        """
        is_token = torch.eq(ids.unsqueeze(-1), self.token_ids)
        is_new = is_token.any(dim=-1)
        own_ids = ids.masked_fill(is_new, 0)
        embedded = embedding(own_ids)
        if len(self.token_ids) == 0:
            return embedded
        # Gemma scales its embeddings inside the module.
        rows = self.input_rows.to(embedded.dtype) * getattr(embedding, "embed_scale", 1.0)
        new = nn.functional.embedding(is_token.int().argmax(dim=-1), rows.to(embedded.dtype))
        return torch.where(is_new.unsqueeze(-1), new, embedded)

    @property
    def scored_rows(self) -> Float[Tensor, "new d"]:
        """The rows that score the new tokens at the output: with tied embeddings those of the input."""
        return self.input_rows if self.output_rows is None else self.output_rows

    def score(self, hidden: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens new"]:
        """Returns the logits of the new tokens."""
        return nn.functional.linear(hidden.to(self.scored_rows.dtype), self.scored_rows)

    def extend_logits(
        self, logits: Float[Tensor, "bn t vocabulary"], hidden: Float[Tensor, "bn t d"]
    ) -> Float[Tensor, "bn t extended"]:
        """Returns the logits with those of the new tokens at their ids. All other logits are unchanged bit for bit."""
        if len(self.token_ids) == 0:
            return logits
        # A device_map may have put the output head on another device than the rows of the new tokens.
        new = self.score(hidden.to(self.scored_rows.device)).to(logits)
        beyond = max(self.ids_end - logits.shape[-1], 0)
        # Padding rows between the vocabulary and the first new id get -inf.
        extended = nn.functional.pad(logits, (0, beyond), value=float("-inf")) if beyond else logits
        return extended.index_copy_(-1, self.token_ids.to(logits.device), new)
