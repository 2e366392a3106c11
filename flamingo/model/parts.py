"""Parts of a model: which of them train, and the checks when a backbone changes."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.model.adapters import is_of_adapter
from flamingo.model.compilation import forget_graphs, is_compiled
from flamingo.model.composition import check_composition, check_record
from flamingo.model.layers import repeated_layers
from flamingo.model.sharded_loading import is_deferred, move_present
from flamingo.model.small_copy import check_by_copy
from flamingo.model.weights_loading import is_quantised


class FlamingoParts:
    """The parts of :class:`flamingo.FlamingoForConditionalGeneration`."""

    config: Any
    vision_model: Any
    fusion: Any
    language_model: Any
    named_parameters: Any
    training: bool
    #: peft's object for the adapter that was added, if any.
    adapter_tuner: tuple[Any, ...] = ()
    #: Names of the modules of the backbones at the last check of the composition; None if nothing is checked.
    _checked: frozenset[str] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The wider precision of the two backbones, in which a checkpoint that contains them is loaded."""
        return torch.promote_types(self.vision_model.dtype, self.language_model.dtype)

    def freeze_backbones(self) -> None:
        """Freezes the vision encoder and the language model."""
        for part in BACKBONES:
            getattr(self, part).requires_grad_(False)
        self.train(self.training)

    def train_parts(self, parts: Collection[str]) -> None:
        """Makes these parts and the adapter train, and freezes all others.

        By default all parts except the backbones train. A checkpoint has to contain a backbone that trains. Batch norms
        of a vision encoder that trains keep the running statistics of the checkpoint.

        Args:
            parts: Names of parts.

        Raises:
            ValueError: For an unknown part.
        """
        unknown = set(parts) - set(BACKBONES + TRAINED_PARTS)
        if unknown:
            raise ValueError(f"parts are {', '.join(BACKBONES + TRAINED_PARTS)}; got {', '.join(sorted(unknown))}")
        for part in BACKBONES + TRAINED_PARTS:
            for name, parameter in getattr(self, part).named_parameters():
                if not is_of_adapter(name):
                    parameter.requires_grad_(part in parts)
        if is_compiled(self):
            forget_graphs()
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """Returns the model after setting the mode of the modules that train. Frozen ones stay in evaluation mode."""
        parent: Any = super()
        parent.train(mode)
        for part in BACKBONES:
            evaluate_frozen(getattr(self, part))
        if self._checked is not None and self._checked != self._backbone_modules():
            self._check_again()  # an adapter was added to a backbone
        return self

    def trainable_parameter_names(self) -> list[str]:
        """Returns the names of all parameters that train. The others have neither gradient nor optimizer state."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def parameter_counts(self) -> dict[str, int]:
        """Returns the number of parameters of each part. Shared parameters count once."""
        counts = {}
        for part in BACKBONES + TRAINED_PARTS:
            counts[part] = sum(parameter.numel() for parameter in getattr(self, part).parameters())
        return counts

    def extra_repr(self) -> str:
        """Returns the number of parameters of each part, one part a line."""
        lines = []
        for part, count in self.parameter_counts().items():
            frozen = " (frozen)" if part in BACKBONES else ""
            lines.append(f"{part}: {count:,} parameters{frozen}")
        return "\n".join(lines)

    def place(self, device: torch.device) -> None:
        """Moves the model. A backbone that is quantised, or was loaded by a ``device_map``, stays on its device.

        A language model whose weights are read later stays on meta.
        """
        for part in BACKBONES:
            backbone = getattr(self, part)
            if not is_quantised(backbone) and not hasattr(backbone, "hf_device_map") and not is_deferred(backbone):
                backbone.to(device)
        if is_deferred(self.language_model):
            self._move_trained_parts(device)
            move_present(self.language_model, device)
        else:
            self._follow_language_model()

    def _follow_language_model(self) -> None:
        """Moves the trained parts to the device of the embeddings, and those of a layer to that of the layer."""
        self._move_trained_parts(self.language_model.get_input_embeddings().weight.device)
        self.fusion.follow(repeated_layers(self.language_model))

    def _move_trained_parts(self, device: torch.device) -> None:
        for part in TRAINED_PARTS:
            getattr(self, part).to(device)

    def begin_checks(self, check: bool) -> None:
        """Checks the composition, unless its config records that it passed, and again whenever a backbone changes.

        Trained parts move to the device of the language model.

        A language model whose weights are read later is checked by a small copy, and never again.

        Args:
            check: Whether to check the composition, now and later.
        """
        if is_deferred(self.language_model):
            if check and self.config.passed_check != check_record(self):
                check_by_copy(self)
            return
        self._follow_language_model()
        if check and self.config.passed_check != check_record(self):
            check_composition(self)
        self._checked = self._backbone_modules() if check else None

    def _check_again(self) -> None:
        check_composition(self)
        self._checked = self._backbone_modules()

    def _backbone_modules(self) -> frozenset[str]:
        """Returns the names of all modules of the backbones. An adapter adds some."""
        names: set[str] = set()
        for part in BACKBONES:
            names.update(name for name, _ in getattr(self, part).named_modules(prefix=part))
        return frozenset(names)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in BACKBONES and self._checked is not None:
            self._check_again()


def evaluate_frozen(backbone: nn.Module) -> None:
    """Sets evaluation mode for every frozen module of a backbone, so that it draws no noise (routers, dropout).

    A module trains if a parameter in it does. One without parameters, such as an adapter's dropout, follows its parent
    module. Batch norms keep their running statistics.
    """
    training = backbone.training
    if not _trains(backbone):
        backbone.eval()
    else:
        _evaluate_frozen_children(backbone)
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.training = False
        elif getattr(module, "gradient_checkpointing", False):
            # A layer recomputes its activations only in training mode. Its submodules keep their modes.
            module.training = training


def _evaluate_frozen_children(module: nn.Module) -> None:
    for child in module.children():
        if _trains(child):
            _evaluate_frozen_children(child)
        elif next(child.parameters(), None) is not None:
            child.eval()


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
