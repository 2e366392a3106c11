"""Visual tokens of images, computed once. Those of the most recently used images stay on the model's device."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from flamingo.data.document import Crop, Frame, Image
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.features import FeatureStore
from flamingo.inference.image_batches import padded
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.devices import to_device

#: The number of images that run through the encoder at once. Prompts have many images, which are all encoded first.
_ENCODER_BATCH_SIZE = 32

#: The identity of an image: a name for each of its frames.
ImageKey = tuple[str, ...]


class VisualTokenCache:
    """Encodes images, or reads their features, and keeps their visual tokens."""

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        features: FeatureStore | None,
        max_bytes: int,
    ) -> None:
        """Makes an empty cache.

        Args:
            model: Makes the visual tokens.
            processor: The model's processor.
            features: The features of all images, whose files are then not opened; None: images are encoded.
            max_bytes: The memory, in bytes, that is kept between two calls, at most.
        """
        self._model = model
        self._processor = processor
        self._features = features
        self._max_bytes = max_bytes
        #: The visual tokens by image, in the order of their last use.
        self.tokens: dict[ImageKey, Float[Tensor, "r v"]] = {}

    @torch.no_grad()
    def get(self, images: Sequence[Image]) -> Float[Tensor, "m r v"]:
        """Returns the visual tokens of the images. Equal images are encoded once."""
        if not images:
            return self._model.no_visual_tokens(1)[0]
        keys = [image_key(image) for image in images]
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in self.tokens}
        missing_keys = list(missing)
        for start in range(0, len(missing_keys), _ENCODER_BATCH_SIZE):
            batch = missing_keys[start : start + _ENCODER_BATCH_SIZE]
            batch_tokens = self._encode([missing[key] for key in batch])
            for key, tokens in zip(batch, batch_tokens, strict=True):
                self.tokens[key] = tokens.clone()  # a view would keep the tokens of the whole batch
        stacked = torch.stack([self.tokens[key] for key in keys])
        self._drop_least_recent(keys)
        return stacked

    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "m r v"]:
        device = self._model.device
        if self._features is None:
            pixels = padded(self._processor.pixel_values(images), _ENCODER_BATCH_SIZE, device)
            tokens = self._model.encode_images(to_device(pixels, device).unsqueeze(0))[0]
        else:
            features = padded(self._features.stacked(images), _ENCODER_BATCH_SIZE, device)
            tokens = self._model.resample(to_device(features, device).unsqueeze(0))[0]
        return tokens[: len(images)]

    def _drop_least_recent(self, used: Sequence[ImageKey]) -> None:
        """Moves tokens that were just used to the end, and drops tokens from the beginning down to the bound."""
        for key in used:
            self.tokens[key] = self.tokens.pop(key)
        size = sum(tokens.nbytes for tokens in self.tokens.values())
        while size > self._max_bytes:
            key = next(iter(self.tokens))
            size -= self.tokens.pop(key).nbytes


def image_key(image: Image) -> ImageKey:
    """Returns the identity of an image: the paths of its frames' files, or digests of their pixels."""
    return tuple(_frame_key(frame) for frame in image.frames)


def _frame_key(frame: Frame) -> str:
    """Returns a file's path, or a digest of an opened picture: a task may draw its pictures again for each query."""
    if isinstance(frame, Crop):
        return f"{_frame_key(frame.frame)} view {frame.number}"
    if isinstance(frame, PILImage.Image):
        picture = open_image(frame)
        return f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
    return str(frame)
