"""The two towers of a contrastive pretraining as a dual encoder that ``from_pretrained`` loads."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from flamingo.model.contrastive import ImageTextContrast, ImageTower, TextTower
from flamingo.model.contrastive_config import ContrastiveConfig
from flamingo.model.vision_loading import make_vision_model


class ContrastiveDualEncoder(PreTrainedModel):
    """An image tower and a text tower with vectors of one space, with the interface of CLIP."""

    config_class = ContrastiveConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__(config)
        encoder = make_vision_model(config.vision_config)
        self.images = ImageTower(encoder, config.vision_features, config.projection_dim)
        self.texts = TextTower(config.text_config, config.projection_dim)
        #: The logarithm of the factor of cosines.
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """Returns False: in custom code transformers does not fill buffers of modules without parameters."""
        return False

    @classmethod
    def of_training(cls, model: ImageTextContrast) -> "ContrastiveDualEncoder":
        """Returns the dual encoder with the weights of a trained pair of towers."""
        images, texts = model.images, model.texts
        assert isinstance(images, ImageTower)
        assert isinstance(texts, TextTower)
        config = ContrastiveConfig(
            vision_config=images.vision_model.config.to_dict(),
            text_config=texts.encoder.config.to_dict(),
            vision_features=images.features,
            projection_dim=texts.projection.out_features,
        )
        dual_encoder = cls(config)
        dual_encoder.images.load_state_dict(images.state_dict())
        dual_encoder.texts.load_state_dict(texts.state_dict())
        dual_encoder.logit_scale.data.copy_(model.clamped_log_scale())
        return dual_encoder.eval()

    def get_image_features(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b width"]:
        """Returns the vectors of images, of unit length."""
        return self.images(pixel_values)

    def get_text_features(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b width"]:
        """Returns the vectors of texts, of unit length. A text ends with its first end-of-text token."""
        return self.texts(input_ids, attention_mask)


AutoModel.register(ContrastiveConfig, ContrastiveDualEncoder)
