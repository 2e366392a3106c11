"""FlamingoConfig: two frozen backbones, and the parts that are trained between them."""

from copy import copy, deepcopy
from dataclasses import asdict, field, fields
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

import flamingo.model.mosaic_gpt_config  # noqa: F401  A saved config may have a text_config of this type.
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.connectors import CONNECTORS, ConnectorConfig
from flamingo.model.fusion import FUSIONS, FusionConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.utils.checks import one_of
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_config, load_kind

#: Fields that hold a dataclass.
_PARTS = ("vision_features", "connector", "fusion")


class FlamingoConfig(PreTrainedConfig):
    """Configuration of :class:`flamingo.FlamingoForConditionalGeneration`.

    Every part may be given as a dictionary of its fields. A connector without a ``kind`` is a Perceiver Resampler; a
    fusion without one is gated cross-attention.

    Raises:
        UserError: For unknown keys and values out of range; the error names the key.
    """

    model_type = "flamingo"
    # transformers 5.17 reads `sub_configs`; newer versions derive it from the defaults below.
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    # The type is Any: __post_init__ converts a dictionary (of a saved config.json) to the type in the comment.
    vision_config: Any = None  # PreTrainedConfig
    text_config: Any = None  # PreTrainedConfig
    vision_features: Any = None  # VisionFeaturesConfig
    connector: Any = None  # ConnectorConfig
    fusion: Any = None  # FusionConfig
    #: The adapter in a backbone (:mod:`flamingo.model.adapters`). A checkpoint has it in a separate file.
    adapter: Any = None  # AdapterConfig, or None
    #: Ids whose embedding rows are trained: the image marker and the end of chunk. They may lie beyond the language
    #: model's vocabulary or within its padding rows.
    new_token_ids: list[int] = field(default_factory=list)
    #: The id of the image marker. Fusions that put visual tokens in its place need it.
    image_token_id: int | None = None
    #: Width v of the vision features; measured when the backbones are composed.
    vision_width: int | None = None
    #: The source of each backbone that a checkpoint may leave out; None if they were not loaded by name.
    backbones: dict | None = None
    backbones_included: bool = True
    #: The record of the passed check (:func:`flamingo.model.composition.check_record`), or None.
    passed_check: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for key in ("vision_config", "text_config"):
            value = getattr(self, key)
            if isinstance(value, dict):
                if "model_type" not in value:
                    raise UserError(f"{key} has no model_type")
                value = AutoConfig.for_model(**value)
            # Copy the config: transformers resets its attention implementation, and a live model that shares the
            # config would lose its causal mask.
            setattr(self, key, deepcopy(value))
        if not isinstance(self.vision_features, VisionFeaturesConfig):
            self.vision_features = load_config(VisionFeaturesConfig, self.vision_features or {}, "vision_features")
        if not isinstance(self.connector, ConnectorConfig):
            values = {"kind": "perceiver"} | (self.connector or {})
            self.connector = load_kind(CONNECTORS, values, "connector")
        if not isinstance(self.fusion, FusionConfig):
            values = {"kind": "cross_attention"} | (self.fusion or {})
            self.fusion = load_kind(FUSIONS, values, "fusion")
        if isinstance(self.adapter, dict):
            self.adapter = load_config(AdapterConfig, self.adapter, "adapter")
        self._check_activations()
        if not isinstance(self.new_token_ids, list | tuple) or not all(type(i) is int for i in self.new_token_ids):
            raise UserError(f"new_token_ids must be a list of whole numbers, got {self.new_token_ids!r}")
        self.new_token_ids = list(self.new_token_ids)
        distinct = len(set(self.new_token_ids)) == len(self.new_token_ids)
        if not distinct or min(self.new_token_ids, default=0) < 0:
            raise UserError(f"new_token_ids must be distinct and not negative, got {self.new_token_ids}")
        super().__post_init__(**kwargs)

    def _check_activations(self) -> None:
        # The dataclasses of the parts cannot check this: they do not import transformers.
        for key in ("connector", "fusion"):
            activation = getattr(getattr(self, key), "activation", None)
            if activation is not None:
                one_of(f"{key}.activation", activation, ACT2FN)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the config of a dictionary.

        Raises:
            UserError: For the configuration of another model.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise UserError(f"this is the configuration of a {model_type}, not of a {cls.model_type}")
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a dictionary, whose parts are dictionaries."""
        parts: dict[str, Any] = {key: asdict(getattr(self, key)) for key in _PARTS}
        parts["adapter"] = None if self.adapter is None else asdict(self.adapter)
        return super().to_dict() | parts

    @classmethod
    def check_keys(cls, keys: Any) -> None:
        """Checks that all keys are fields. The constructor of transformers' configs would keep others silently.

        Raises:
            UserError: For an unknown key.
        """
        known = [f.name for f in fields(cls) if f.name in FlamingoConfig.__annotations__]
        for key in keys:
            one_of("a key of FlamingoConfig", key, known)

    @property
    def vocab_size(self) -> int:
        """The size of the language model's vocabulary, including new tokens beyond it."""
        return max(self.text_config.vocab_size, max(self.new_token_ids, default=-1) + 1)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Returns the language model's config with the vocabulary of generation."""
        if self.text_config is None:
            return self
        text_config = copy(self.text_config)
        text_config.vocab_size = self.vocab_size
        return text_config


# Here and not in auto_classes.py: loading a processor without the package's names would warn about an unknown type.
AutoConfig.register(FlamingoConfig.model_type, FlamingoConfig)
