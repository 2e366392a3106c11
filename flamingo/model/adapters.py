"""Adapters by peft in a frozen backbone: adding, saving, loading and merging them.

peft replaces layers by its own, which contain the original as ``base_layer``. A checkpoint contains the backbone under
its original names, or names the backbone. It has the weights of the adapter in a separate file.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.sharded_loading import is_deferred, stand_ins
from flamingo.utils.checks import one_of
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file

#: The name of the adapter in peft's layers. The names of all its parameters contain it.
_NAME = "flamingo_adapter"
#: The file of a checkpoint with the weights of its adapter.
ADAPTER_FILE = "adapter.safetensors"
#: The addition to the names of an original layer's weights, from peft's attribute for that layer.
_BASE = ".base_layer"


def is_of_adapter(name: str) -> bool:
    """Returns whether a parameter or buffer of this name belongs to an adapter of :func:`add_adapter`."""
    return _NAME in name.split(".")


def add_adapter(model: Any, config: AdapterConfig) -> None:
    """Wraps layers of a backbone, whose own weights stay frozen. The adapter trains in float32.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration` without an adapter. The caller checks the
            composition again.
        config: The adapter.

    Raises:
        UserError: For a method that does not only wrap layers, and for settings that peft refuses.
    """
    assert model.config.adapter is None, "a model has one adapter"
    backbone = getattr(model, config.part)
    names, head = set(backbone.state_dict()), backbone.get_output_embeddings()
    settings = _peft_settings(config)
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    try:
        with stand_ins(backbone):
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[settings.peft_type](backbone, settings, adapter_name=_NAME)
    # peft has no error class of its own: each method raises whatever its first wrong assumption causes.
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"adapter.kind={config.kind} does not fit the {config.part}: {_reason(error)}") from error
    own = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    others = [name for name in own if not is_of_adapter(name)]
    if others or not own or bare_state(backbone).keys() != names:
        trained = f"it trains {others[0]}" if others else "its weights are not in layers that it wraps"
        raise UserError(f"adapter.kind={config.kind} with these settings does not only wrap layers: {trained}")
    if backbone.get_output_embeddings() is not head:
        raise UserError(f"adapter.kind={config.kind} cannot wrap the output head, which the new tokens are attached to")
    for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]:
        if is_of_adapter(name) and tensor.is_floating_point():
            tensor.data = tensor.data.float()
            if is_deferred(backbone) and tensor.isnan().any():
                raise UserError(
                    f"adapter.kind={config.kind} with these settings starts from weights of the {config.part}, which "
                    "are read after it is added where processes share them: choose parallel=ddp"
                )
    # The tuple hides the tuner from torch, which would register a module among the attributes as a part of the model.
    model.adapter_tuner = (tuner,)
    model.config.adapter = config


def merge_adapter(model: Any) -> None:
    """Adds the adapter of a model to the weights of its backbone, which becomes a plain one again.

    A checkpoint must then contain the backbone.

    Raises:
        UserError: For a method whose weights cannot be merged.
    """
    [tuner] = model.adapter_tuner
    try:
        tuner.merge_and_unload()
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"adapter.kind={model.config.adapter.kind} cannot be merged: {_reason(error)}") from error
    model.adapter_tuner = ()
    model.config.adapter = None
    model.train(model.training)  # checks the composition again


def bare_state(module: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the state of a module without its adapter, under the names that it has without one."""
    return without_adapter(module.state_dict())


def without_adapter(state: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns a state without the weights of an adapter, under the names that the others have without one."""
    return {name.replace(_BASE, ""): tensor for name, tensor in state.items() if not is_of_adapter(name)}


def save_adapter(model: Any, state: Mapping[str, Shaped[Tensor, "..."]], folder: Path) -> None:
    """Writes the weights of the model's adapter into the folder of a checkpoint.

    Args:
        model: The model.
        state: Its ``state_dict``, or what a checkpoint contains of it.
        folder: The folder.
    """
    prefix = f"{model.config.adapter.part}."
    of_part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _adapter_state(of_part).items()}
    with atomic_file(folder / ADAPTER_FILE, "wb") as stream:
        stream.write(save(tensors))


def load_adapter(model: Any, config: AdapterConfig, checkpoint: str | Path, **hub: Any) -> None:
    """Adds the adapter of a checkpoint to a model that has none.

    Args:
        model: The model.
        config: The adapter.
        checkpoint: The folder or hub name of the checkpoint.
        **hub: Arguments of ``from_pretrained`` for the hub, such as ``revision``.

    Raises:
        UserError: If weights are missing, left over or of another shape; the error names the file.
    """
    add_adapter(model, config)
    backbone = getattr(model, config.part)
    path = cached_file(checkpoint, ADAPTER_FILE, **hub)
    try:
        tensors = load_file(path)
        different = sorted(_adapter_state(backbone.state_dict()).keys() ^ tensors.keys())
        if different:
            raise UserError(f"{path}: missing or unexpected keys {different[:5]}")
        backbone.load_state_dict(tensors, strict=False)
    except (RuntimeError, SafetensorError) as error:  # wrong shapes, which torch names, or a damaged file
        raise UserError(f"{path}: {error}") from error


def _adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of the adapter in the state of its backbone.

    A tensor that layers share (VeRA's projections) is included once.
    """
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in state.items():
        if is_of_adapter(name) and (tensor.numel() == 0 or tensor.data_ptr() not in seen):
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors


def _peft_settings(config: AdapterConfig) -> Any:
    """Returns peft's config of a method that wraps layers.

    Raises:
        UserError: If peft is missing, the method does not wrap layers, or peft refuses the settings.
    """
    try:
        from peft import AdaptionPromptConfig, PromptLearningConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTuner
    except ImportError as error:
        raise UserError("adapters need the package peft: pip install 'flamingo[adapters]'") from error
    kinds = {kind.value.lower(): kind for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    wrapping = [name for name, kind in kinds.items() if issubclass(PEFT_TYPE_TO_TUNER_MAPPING[kind], BaseTuner)]
    one_of("adapter.kind", config.kind, sorted(kinds))
    method = PEFT_TYPE_TO_CONFIG_MAPPING[kinds[config.kind]]
    if config.kind not in wrapping and not issubclass(method, PromptLearningConfig | AdaptionPromptConfig):
        raise UserError(f"adapter.kind={config.kind} does not only wrap layers: choose one that does, such as lora")
    if config.kind not in wrapping:
        raise UserError(
            f"adapter.kind={config.kind} learns tokens of the prompt, but Flamingo's prompts have positions for texts "
            "and images only: choose a method that wraps layers, such as lora"
        )
    known = inspect.signature(method).parameters
    for key in config.settings:
        if key not in known or key in ("peft_type", "task_type", "inference_mode", "modules_to_save"):
            raise UserError(f"adapter.settings.{key} is not a key of the adapter {config.kind}")
    try:
        return method(**config.settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"adapter.settings: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
