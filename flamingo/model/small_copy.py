"""A small copy of a model whose language model has no weights yet, to check the composition by it."""

import logging
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedConfig

from flamingo.model.composition import check_composition
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.language import make_text_model
from flamingo.utils.devices import random_devices

log = logging.getLogger(__name__)

#: The least number of rows of the copy's vocabulary.
_VOCABULARY = 512
#: What transformers' models raise for a config with too few layers.
_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def check_by_copy(model: Any) -> None:
    """Checks the composition of a model by its small copy. A model that cannot be copied is not checked.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration` whose language model is on meta.

    Raises:
        UserError: If a backbone lacks a property that the composition needs.
    """
    try:
        copy = small_copy(model)
    except _ERRORS as error:
        name = type(model.language_model).__name__
        log.warning("the composition is not checked: a %s of few layers cannot be made (%s)", name, error)
        return
    check_composition(copy)


def small_copy(model: Any) -> Any:
    """Returns a model with the same vision encoder and a small language model with random weights, in float32.

    The small language model has the widths of the other, and one layer of each of its types. A gated block precedes
    each layer. No random numbers are drawn.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration` whose language model is on meta.
    """
    config = deepcopy(model.config)
    config.adapter = None
    _shorten(config.text_config, [*config.new_token_ids, config.image_token_id])
    if isinstance(config.fusion, CrossAttentionConfig):
        config.fusion = replace(config.fusion, every=1, offset=0)
    with torch.random.fork_rng(random_devices(model)):
        copy = type(model)(config, model.vision_model, make_text_model(config.text_config))
    copy.place(model.new_tokens.input_rows.device)
    return copy


def _shorten(config: PreTrainedConfig, token_ids: list[int | None]) -> None:
    """Leaves a language model its first layers, and rows for special tokens."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        config.num_hidden_layers = 1
    else:
        num_layers = 1 + max(layer_types.index(layer_type) for layer_type in set(layer_types))
        config.layer_types = layer_types[:num_layers]
        config.num_hidden_layers = num_layers
    num_rows = _VOCABULARY
    for key, value in [*vars(config).items(), *enumerate(token_ids)]:
        is_token = isinstance(key, int) or key.endswith("_token_id")
        if is_token and isinstance(value, int) and value < config.vocab_size:
            num_rows = max(num_rows, value + 1)
    config.vocab_size = min(config.vocab_size, num_rows)
    config.dtype = torch.float32
