"""Checks that two backbones can be composed, and records the result in the config."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from flamingo.model.text_probe import check_language_model
from flamingo.model.vision import image_size
from flamingo.model.vision_probe import check_encoder
from flamingo.utils.devices import exact_float32, random_devices

#: The seed of the probe.
_SEED = 0
#: The largest number of elements of a buffer whose values are restored. Larger buffers are quantised weights.
_LARGEST = 2**22


def check_composition(model: Any) -> None:
    """Runs the probes, and records in ``model.config.passed_check`` that they passed.

    A :class:`flamingo.FlamingoForConditionalGeneration` is checked when it is composed, and again when a backbone is
    replaced. Only the record in ``model`` changes, and the probes draw from a generator of their own.

    Raises:
        UserError: If a backbone lacks a property that the composition needs.
    """
    model.config.passed_check = None
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad(), _state_restored(model):
        for module in model.modules():
            module.training = False
        encoder, config = model.vision_model, model.config
        check_encoder(encoder, config.vision_features, image_size(encoder.config), generator, width=config.vision_width)
        check_language_model(model, generator)
    model.config.passed_check = check_record(model)


def check_record(model: Any) -> dict[str, Any]:
    """Returns the conditions of the check: versions, kernels, precision, features."""
    parts = {"vision_model": model.vision_model, "language_model": model.language_model}
    record: dict[str, Any] = {
        "transformers": transformers.__version__,
        "vision_features": asdict(model.config.vision_features),
    }
    for part, backbone in parts.items():
        quantization = getattr(backbone.config, "quantization_config", None)
        record[part] = {
            "attention": backbone.config._attn_implementation,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "quantization": None if quantization is None else str(quantization),
        }
    if model.config.adapter is not None:
        record["adapter"] = asdict(model.config.adapter)
    return record


@contextmanager
def _state_restored(model: nn.Module) -> Iterator[None]:
    """Restores modes, buffers, cached attributes and the states of all global generators after the block."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    saved = [_SavedModule(module) for module in model.modules()]
    try:
        # TensorFloat-32 would round convolutions of whole prompts, but not the products for single tokens.
        with exact_float32(), torch.random.fork_rng(random_devices(model)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module in saved:
            module.restore()


class _SavedModule:
    """A module's own attributes and buffers, with copies of the contents that may change in place."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        attributes = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_modules")}
        self.attributes = {key: (value, _contents(value)) for key, value in attributes.items()}
        self.buffers = {key: (value, _contents(value)) for key, value in module._buffers.items()}

    def restore(self) -> None:
        for current, saved in ((vars(self.module), self.attributes), (self.module._buffers, self.buffers)):
            for key in current.keys() - saved.keys() - {"_parameters", "_modules"}:
                del current[key]
            for key, (value, contents) in saved.items():
                current[key] = value
                _fill(value, contents)


def _contents(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone() if value.numel() <= _LARGEST else None
    return copy(value) if type(value) in (dict, list) else None


def _fill(value: Any, contents: Any) -> None:
    if contents is None:
        return
    if isinstance(value, Tensor):
        value.data.copy_(contents)
    elif type(value) is dict:
        value.clear()
        value.update(contents)
    elif type(value) is list:
        value[:] = contents
