"""ContrastiveConfig: the two towers of a contrastive pretraining, ``model_type: flamingo_contrastive``."""

from dataclasses import asdict
from typing import Any, ClassVar

from transformers import AutoConfig, CLIPTextConfig, PreTrainedConfig

from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.utils.kinds import load_config


class ContrastiveConfig(PreTrainedConfig):
    """Configuration of :class:`flamingo.model.contrastive_dual_encoder.ContrastiveDualEncoder`."""

    model_type = "flamingo_contrastive"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": CLIPTextConfig}

    # The type is Any: __post_init__ converts a dictionary (of a saved config.json) to the type in the comment.
    vision_config: Any = None  # PreTrainedConfig
    text_config: Any = None  # CLIPTextConfig
    vision_features: Any = None  # VisionFeaturesConfig
    #: The width of the vectors.
    projection_dim: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        for key in ("vision_config", "text_config"):
            value = getattr(self, key)
            if isinstance(value, dict):
                setattr(self, key, AutoConfig.for_model(**value))
        if not isinstance(self.vision_features, VisionFeaturesConfig):
            self.vision_features = load_config(VisionFeaturesConfig, self.vision_features or {}, "vision_features")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a dictionary, whose parts are dictionaries."""
        return super().to_dict() | {"vision_features": asdict(self.vision_features)}


AutoConfig.register(ContrastiveConfig.model_type, ContrastiveConfig)
