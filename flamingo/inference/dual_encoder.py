"""A dual encoder, such as CLIP, SigLIP or our own of contrastive pretraining: images and texts -> vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

import flamingo.model.contrastive_dual_encoder  # noqa: F401  # registers our own
from flamingo.data.document import Image
from flamingo.data.transforms.image_processors import load_image_processor
from flamingo.data.transforms.pictures import open_image
from flamingo.model.weights_loading import load_weights
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.sharing import batched

#: The name of the part in errors.
_PART = "dual encoder"
#: Models whose texts attend to their padding. Their tokenizers may return masks.
_WITHOUT_MASK = ("siglip", "siglip2")


class DualEncoder:
    """Two frozen towers whose vectors are compared by their cosine. All vectors have length 1."""

    def __init__(self, name_or_path: str | Path, batch_size: int = 64) -> None:
        """Loads the encoder, its image processor and its tokenizer.

        Args:
            name_or_path: A folder or a name on the hub.
            batch_size: The number of images or texts that run together.

        Raises:
            UserError: If there is no dual encoder of this name.
        """
        self.name, self.batch_size = name_or_path, batch_size
        model = load_weights(AutoModel, name_or_path, _PART, _is_buffer)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise UserError(f"{_PART} {name_or_path}: {type(model).__name__} has no vectors of images and texts")
        self.model = model.to(processes().device).eval()
        self.image_processor = load_image_processor(name_or_path)
        self.tokenizer = from_pretrained(AutoTokenizer, name_or_path, f"tokenizer of the {_PART}")
        positions = model.config.text_config.max_position_embeddings
        self.max_length = min(self.tokenizer.model_max_length, positions)

    @property
    def scale(self) -> float:
        """The factor of cosines that the encoder was trained with.

        Raises:
            UserError: For an encoder without one.
        """
        if not hasattr(self.model, "logit_scale"):
            raise UserError(f"{_PART} {self.name}: {type(self.model).__name__} has no factor of cosines (logit_scale)")
        return self.model.logit_scale.exp().item()

    @torch.no_grad()
    def image_vectors(self, images: Sequence[Image]) -> Float[Tensor, "images width"]:
        """Returns the vector of the first frame of each image, on the host."""
        vectors = []
        for batch in batched(images, self.batch_size):
            pictures = [open_image(image.frames[0]) for image in batch]
            pixels = self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
            vectors.append(self._normalised(self.model.get_image_features(pixels.to(self.model.device))))
        return torch.cat(vectors)

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Returns the vector of each text, on the host. Texts that are too long are cut."""
        vectors = []
        for batch in batched(texts, self.batch_size):
            # SigLIP reads the last position, and was trained with padding up to it, which no mask hides. CLIP reads the
            # first end of text.
            encoded = self.tokenizer(
                list(batch), padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            names = self.tokenizer.model_input_names
            if self.model.config.model_type in _WITHOUT_MASK:
                names = ["input_ids"]
            inputs = {name: encoded[name].to(self.model.device) for name in names if name in encoded}
            vectors.append(self._normalised(self.model.get_text_features(**inputs)))
        return torch.cat(vectors)

    def _normalised(self, features: Any) -> Tensor:
        """Returns vectors of length 1. Some versions of transformers return an output object, others its vectors."""
        vectors = features if isinstance(features, Tensor) else features.pooler_output
        return F.normalize(vectors.float(), dim=-1).cpu()


def _is_buffer(model: Any, key: str) -> bool:
    return key.endswith("position_ids")
