"""Checkpoints: composing, loading and saving, with or without the backbones."""

import os
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, logging
from transformers.utils.hub import cached_file

from flamingo.model import BACKBONES
from flamingo.model.adapters import (
    add_adapter,
    bare_state,
    is_of_adapter,
    load_adapter,
    save_adapter,
    without_adapter,
)
from flamingo.model.config import FlamingoConfig
from flamingo.model.fingerprints import fingerprint, fingerprint_of
from flamingo.model.language import load_text_model
from flamingo.model.sharded_loading import defer_weights, is_deferred, mean_row
from flamingo.model.vision_loading import load_vision_model
from flamingo.model.weights_loading import is_quantised
from flamingo.utils.device_names import INT8
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.shards import is_sharded

logger = logging.get_logger(__name__)

#: The function that loads a backbone.
LOADERS = {"vision_model": load_vision_model, "language_model": load_text_model}
#: Arguments of ``from_pretrained`` for a backbone: its folder or name, and arguments of its own ``from_pretrained``.
NAME_ARGUMENTS = {"vision_model": "vision_model_name_or_path", "language_model": "text_model_name_or_path"}
KWARGS_ARGUMENTS = {"vision_model": "vision_kwargs", "language_model": "text_kwargs"}
_HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")
_PACKAGE = Path(__file__).parents[1]


class FlamingoCheckpoints:
    """``from_pretrained`` and ``save_pretrained`` of :class:`flamingo.FlamingoForConditionalGeneration`."""

    config: Any

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
    ) -> Any:
        """Returns a new model of two pretrained backbones. The parts between them are untrained.

        Args:
            vision_model_name_or_path: A folder or a name on the hub.
            text_model_name_or_path: A folder, a name on the hub, or a GGUF file.
            dtype: The dtype of the frozen backbones; "int8": bfloat16, and int8 in the language model's linear layers.
            vision_kwargs: Arguments of the vision encoder's ``from_pretrained`` (``revision``, ...).
            text_kwargs: Arguments of the language model's ``from_pretrained``. With ``load`` :func:`defer_weights` its
                weights stay on meta until :func:`flamingo.model.sharded_loading.load_deferred`.
            check: Whether to check the composition (:func:`flamingo.model.composition.check_composition`).
            **flamingo_config: Fields of :class:`FlamingoConfig`. ``new_token_ids`` are ``processor.new_token_ids``.

        Raises:
            UserError: For backbones that cannot be composed.
        """
        FlamingoConfig.check_keys(flamingo_config)
        vision_kwargs, text_kwargs = vision_kwargs or {}, text_kwargs or {}
        vision_model = load_vision_model(vision_model_name_or_path, **({"dtype": dtype} | vision_kwargs))
        language_model = load_text_model(text_model_name_or_path, **({"dtype": dtype} | text_kwargs))
        vision_origin = origin("vision_model", vision_model, vision_model_name_or_path, vision_kwargs.get("revision"))
        text_origin = origin("language_model", language_model, text_model_name_or_path, text_kwargs.get("revision"))
        flamingo_config.setdefault("backbones", {"vision_model": vision_origin, "language_model": text_origin})
        config = FlamingoConfig(vision_config=vision_model.config, text_config=language_model.config, **flamingo_config)
        if not config.new_token_ids:
            logger.warning("no new_token_ids: the embeddings of <image> and <|endofchunk|> will not be trained")
        model: Any = cls(config, vision_model, language_model)  # type: ignore[call-arg]
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        model.new_tokens.start_from(mean_row(language_model, embedding), mean_row(language_model, head))
        adapter, config.adapter = config.adapter, None
        if adapter is not None:
            add_adapter(model, adapter)
        if language_model.generation_config is not None:
            model.generation_config = language_model.generation_config
        model.begin_checks(check)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the model of a checkpoint, as in transformers.

        Backbones that the checkpoint leaves out are loaded by name and compared with their fingerprints. For these
        ``vision_kwargs`` and ``text_kwargs`` (``quantization_config``, ``device_map``, ...) go to their own
        ``from_pretrained``; ``vision_model_name_or_path`` and ``text_model_name_or_path`` replace the locations that
        the checkpoint names. The composition is checked (:func:`flamingo.model.composition.check_composition`) unless
        the checkpoint records that it passed with the same versions, kernels and precision, or ``check=False``.

        Raises:
            UserError: If the checkpoint or a backbone cannot be loaded, or its weights do not fit.
            ValueError: If an argument does not fit the checkpoint.
        """
        check = kwargs.pop("check", True)
        hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
        saved = from_pretrained(FlamingoConfig, pretrained_model_name_or_path, "checkpoint", **hub)
        names = {part: kwargs.pop(argument, None) for part, argument in NAME_ARGUMENTS.items()}
        backbone_kwargs = {part: kwargs.pop(argument, None) or {} for part, argument in KWARGS_ARGUMENTS.items()}
        if not saved.backbones_included:
            return cls._load_without_backbones(
                pretrained_model_name_or_path, saved, names, backbone_kwargs, hub, check, kwargs
            )
        if any(names.values()) or any(backbone_kwargs.values()):
            arguments = ", ".join(list(KWARGS_ARGUMENTS.values()) + list(NAME_ARGUMENTS.values()))
            raise ValueError(f"{arguments} need a checkpoint that leaves its backbones out")
        if kwargs.get("dtype") == INT8:
            raise UserError(f"dtype={INT8} needs a checkpoint that leaves its backbones out (include_backbones=false)")
        if kwargs.get("quantization_config") is not None:
            raise ValueError(
                "quantization_config would also quantise the trained parts: save the model with "
                'include_backbones=False, and load it with text_kwargs={"quantization_config": ...}'
            )
        with_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = from_pretrained(super(), pretrained_model_name_or_path, "checkpoint", *args, **kwargs)
        problems = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
        if problems:
            raise UserError(f"the weights in {pretrained_model_name_or_path} do not fit: {problems}")
        model.freeze_backbones()
        cls._finish_loading(model, pretrained_model_name_or_path, hub, check)
        return (model, info) if with_info else model

    @classmethod
    def _finish_loading(cls, model: Any, checkpoint: Any, hub: dict[str, Any], check: bool) -> None:
        """Adds the checkpoint's adapter, if it has one, and checks the composition."""
        adapter, model.config.adapter = model.config.adapter, None
        if adapter is not None:
            load_adapter(model, adapter, checkpoint, **hub)
        model.begin_checks(check)
        model.eval()

    @classmethod
    def _load_without_backbones(
        cls,
        checkpoint: Any,
        saved: FlamingoConfig,
        names: dict[str, str | Path | None],
        backbone_kwargs: dict[str, dict[str, Any]],
        hub: dict[str, Any],
        check: bool,
        kwargs: dict[str, Any],
    ) -> Any:
        common = {key: kwargs[key] for key in ("dtype", "attn_implementation") if kwargs.get(key, "auto") != "auto"}
        allowed = {"config", "dtype", "adapter_kwargs", *hub, *common}
        unused = {key for key, value in kwargs.items() if value} - allowed
        if unused:
            raise ValueError(f"{sorted(unused)} cannot be used with a checkpoint that leaves its backbones out")
        config = deepcopy(kwargs.get("config") or saved)  # the caller's config may belong to another model
        config.backbones = saved.backbones
        backbones = []
        assert config.backbones is not None
        for part in BACKBONES:
            part_kwargs = common | backbone_kwargs[part]
            backbones.append(_load_backbone(part, config.backbones[part], checkpoint, names[part], part_kwargs))
        model: Any = cls(config, *backbones)  # type: ignore[call-arg]
        load_trained_parts(model, checkpoint, **hub)
        config.backbones_included = True
        with suppress(OSError):  # a checkpoint may have no generation config
            model.generation_config = GenerationConfig.from_pretrained(checkpoint, **hub)
        cls._finish_loading(model, checkpoint, hub, check)
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, include_backbones: bool = True, **kwargs: Any) -> None:
        """Saves the model, as in transformers. Without its backbones a checkpoint has their names and fingerprints.

        Raises:
            UserError: If a quantised backbone would be saved, or a changed one left out.
            ValueError: For ``max_shard_size`` without the backbones.
        """
        parent: Any = super()
        model: Any = self
        backbones = {part: getattr(self, part) for part in BACKBONES}
        if self.config.backbones is not None:
            self.config.backbones = with_locations(self.config.backbones, Path(save_directory))
        if self.config.adapter is not None:
            state = kwargs.get("state_dict") or model.state_dict()
            save_adapter(self, state, Path(save_directory))
            kwargs["state_dict"] = without_adapter(state)
        if include_backbones:
            for part, backbone in backbones.items():
                if is_quantised(backbone):
                    raise UserError(f"a quantised {part} cannot be saved; include_backbones=False names it")
            return parent.save_pretrained(save_directory, *args, **kwargs)
        if "max_shard_size" in kwargs:
            raise ValueError("a checkpoint without its backbones is one file: max_shard_size cannot be chosen")
        if not is_sharded(model):  # its processes check it together: see flamingo/training/export.py
            check_unchanged(self.config, backbones)
        state = kwargs.pop("state_dict", None) or model.state_dict()
        trained = {key: value for key, value in state.items() if not key.startswith(BACKBONES)}
        self.config.backbones_included = False
        try:
            return parent.save_pretrained(save_directory, *args, state_dict=trained, max_shard_size="10TB", **kwargs)
        finally:
            self.config.backbones_included = True


def load_trained_parts(model: nn.Module, name_or_path: str | Path, **hub: Any) -> None:
    """Loads a checkpoint into all parts of ``model`` except the backbones.

    Raises:
        UserError: If keys or shapes are not exactly those of the parts; the error names the file and the keys.
    """
    path = cached_file(name_or_path, SAFE_WEIGHTS_NAME, **hub)
    try:
        keys = model.load_state_dict(load_file(path), strict=False)
    except (RuntimeError, SafetensorError) as error:  # wrong shapes, which torch names, or a damaged file
        raise UserError(f"{path}: {error}") from error
    missing = [key for key in keys.missing_keys if not key.startswith(BACKBONES)]
    if missing or keys.unexpected_keys:
        raise UserError(f"{path}: missing keys {missing}, unexpected keys {keys.unexpected_keys}")


def origin(part: str, model: PreTrainedModel, name_or_path: str | Path, revision: str | None) -> dict[str, str | None]:
    """Returns a part's entry in ``FlamingoConfig.backbones``: its origin and its fingerprint."""
    name = str(Path(name_or_path).resolve()) if Path(name_or_path).exists() else str(name_or_path)
    entry = {"name": name, "revision": revision, "dtype": str(model.dtype).removeprefix("torch.")}
    return entry | {"fingerprint": _source_fingerprint(part, model, entry)}


def with_locations(backbones: dict[str, dict[str, Any]], checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Returns ``FlamingoConfig.backbones`` with each folder also relative to ``checkpoint`` and to this package.

    A backbone is therefore found if it moves together with the checkpoint, and if the package is installed elsewhere.
    """
    located = {}
    for part, entry in backbones.items():
        path = Path(entry["name"])
        relative = os.path.relpath(path, checkpoint.resolve()) if path.exists() else None
        shipped = path.exists() and path.is_relative_to(_PACKAGE)
        in_package = str(path.relative_to(_PACKAGE)) if shipped else None
        located[part] = entry | {"relative": relative, "in_package": in_package}
    return located


def check_unchanged(config: FlamingoConfig, backbones: dict[str, PreTrainedModel]) -> None:
    """Checks that a checkpoint can leave these backbones out: they still have the weights that they were loaded with.

    Raises:
        UserError: If they were not loaded by name, or have changed.
    """
    if config.backbones is None:
        raise UserError("the backbones of this model were not loaded by name, so a checkpoint cannot leave them out")
    for part, model in backbones.items():
        entry = config.backbones[part]
        if is_deferred(model):
            changed = False
        elif is_quantised(model):  # the weights of an adapter train, quantised ones do not
            trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            changed = not all(map(is_of_adapter, trained))
        elif _comparable(str(model.dtype), entry["dtype"]):
            changed = fingerprint_of(bare_state(model).values()) != entry["fingerprint"]
        else:
            changed = False
        if changed:
            raise UserError(
                f"{part} has other weights than {entry['name']}, from which it was loaded: "
                "save it with include_backbones=True"
            )


def _load_backbone(
    part: str, entry: dict[str, Any], checkpoint: str | Path, name: str | Path | None, kwargs: dict[str, Any]
) -> PreTrainedModel:
    """Returns a backbone that a checkpoint names, by default in the precision it had. Updates ``entry["name"]``.

    ``name`` replaces the location that the checkpoint names.

    Raises:
        UserError: If it is not found, or its weights are not those that the checkpoint was trained with.
    """
    entry["name"] = str(name) if name is not None else _find(part, entry, checkpoint)
    model = LOADERS[part](entry["name"], **(_precision(entry) | kwargs))
    if _source_fingerprint(part, model, entry) != entry["fingerprint"]:
        raise UserError(
            f"{entry['name']} (revision {entry['revision']}) does not hold the weights that this checkpoint "
            "was trained with"
        )
    return model


def _precision(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of ``from_pretrained`` that load the weights in the recorded precision."""
    if entry["revision"] is None:
        return {"dtype": entry["dtype"]}
    return {"dtype": entry["dtype"], "revision": entry["revision"]}


def _find(part: str, entry: dict[str, Any], checkpoint: str | Path) -> str:
    """Returns the folder or the name on the hub of a backbone that a checkpoint leaves out.

    Raises:
        UserError: If a folder is in none of its locations.
    """
    locations = [Path(entry["name"])]
    if entry.get("relative") is not None:
        locations.append(Path(checkpoint, entry["relative"]))
    if entry.get("in_package") is not None:
        locations.append(_PACKAGE / entry["in_package"])
    for path in locations:
        if path.exists():
            return str(path.resolve())
    if len(locations) == 1 and not locations[0].is_absolute():
        return entry["name"]  # a name on the hub
    raise UserError(
        f"the {part.replace('_', ' ')} of the checkpoint {checkpoint} is at none of {', '.join(map(str, locations))}: "
        f"pass {NAME_ARGUMENTS[part]}=FOLDER to from_pretrained, or correct backbones.{part}.name in its config.json"
    )


def _source_fingerprint(part: str, model: PreTrainedModel, entry: Mapping[str, str | None]) -> str:
    """Returns the fingerprint of the saved weights that ``model`` was loaded from.

    If it is quantised or has another precision, the saved weights are loaded a second time, on the CPU.
    """
    if is_quantised(model) or not _comparable(str(model.dtype), entry["dtype"] or ""):
        deferring = {"load": defer_weights} if is_deferred(model) else {}
        model = LOADERS[part](entry["name"] or "", **_precision(entry), **deferring)
    return fingerprint(model)


def _comparable(dtype: str, other: str) -> bool:
    """Returns whether fingerprints in these precisions agree: float16 rounds to other values than bfloat16."""
    is_half = dtype.removeprefix("torch.") == "float16"
    other_is_half = other.removeprefix("torch.") == "float16"
    return is_half == other_is_half
