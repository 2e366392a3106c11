"""Images -> visual tokens -> the fusion's state."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from flamingo.model.fusion.base import VisualContext, VisualState
from flamingo.model.precision import in_own_precision
from flamingo.model.vision import encode_patches, num_patches

#: The arguments for images, each computed from the one before. A forward pass takes one of them.
IMAGE_ARGUMENTS = ("pixel_values", "image_features", "visual_tokens", "visual_state")


class FlamingoImages:
    """The methods of :class:`flamingo.FlamingoForConditionalGeneration` for images."""

    config: Any
    vision_model: Any
    connector: Any
    fusion: Any

    def encode_images(
        self, pixel_values: Float[Tensor, "b m c h w"] | Float[Tensor, "b m f c h w"]
    ) -> Float[Tensor, "b m r width"]:
        """Returns the visual tokens of every image, by the frozen encoder and the connector.

        Raises:
            ValueError: If ``pixel_values`` have other axes, or are bytes.
        """
        if pixel_values.ndim not in (5, 6):
            raise ValueError(f"pixel_values must be [b m c h w] or [b m f c h w], got {list(pixel_values.shape)}")
        if not pixel_values.is_floating_point():
            raise ValueError("pixel_values are bytes: convert them by processor.normalized(batch)")
        if pixel_values.ndim == 5:
            pixel_values = rearrange(pixel_values, "b m c h w -> b m 1 c h w")
        b, m, f = pixel_values.shape[:3]
        if m == 0:
            return self.no_visual_tokens(b)
        flat = rearrange(pixel_values, "b m f c h w -> (b m f) c h w").to(self.vision_model.dtype)
        trains = any(parameter.requires_grad for parameter in self.vision_model.parameters())
        with nullcontext() if trains else torch.no_grad(), in_own_precision(self.vision_model, flat.device):
            features = encode_patches(self.vision_model, flat, self.config.vision_features)
        return self.resample(rearrange(features, "(b m f) p v -> b m f p v", b=b, m=m, f=f))

    def resample(self, image_features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m r width"]:
        """Returns the visual tokens of precomputed features (:mod:`flamingo.inference.features`).

        Raises:
            ValueError: If the features have another width than the encoder's.
        """
        if image_features.shape[-1] != self.config.vision_width:
            raise ValueError(
                f"image_features [b m f p v] are {image_features.shape[-1]} wide, but v is {self.config.vision_width}"
            )
        if image_features.shape[1] == 0:
            return self.no_visual_tokens(len(image_features))
        return self.connector(image_features.to(self._connector_weight().dtype))

    def tokens_per_image(self, height: int, width: int) -> int:
        """Returns the number of positions of an image of this size in a text: ``processor.tokens_per_image``.

        Args:
            height: The height of the image in pixels.
            width: Its width in pixels.
        """
        if self.fusion.tokens_per_image(1) == 0:
            return 0
        patches = num_patches(self.vision_model, self.config.vision_features, height, width)
        return self.fusion.tokens_per_image(self.connector.num_tokens(patches, frames=1))

    def no_visual_tokens(self, documents: int) -> Float[Tensor, "b 0 1 width"]:
        """Returns the visual tokens of documents without images. The axis r has the placeholder length 1."""
        weight = self._connector_weight()
        return torch.zeros(documents, 0, 1, self.connector.width, dtype=weight.dtype, device=weight.device)

    def visual_state(self, visual_tokens: Float[Tensor, "b m r width"]) -> VisualState:
        """Returns the language model's inputs from all images, which are kept while decoding."""
        return self.fusion.prepare(visual_tokens)

    def visual_context(
        self,
        input_ids: Int[Tensor, "bn t"],
        image_index: Int[Tensor, "..."] | None,
        images: Mapping[str, Any],
        image_places: Int[Tensor, " places"] | None = None,
        check: bool = True,
        visual_index: Int[Tensor, "bn t"] | None = None,
    ) -> VisualContext:
        """Returns the images' inputs of the language model, and an ``image_index`` that fits them.

        Args:
            input_ids: The token ids.
            image_index: The image that each token sees [bn t], -1 for none. None is allowed only without images.
            images: The values of :data:`IMAGE_ARGUMENTS`, at most one of which is not None.
            image_places: See ``forward``.
            check: Whether ``image_index`` is read on the host and checked.
            visual_index: See ``forward``.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        names = [name for name in IMAGE_ARGUMENTS if images.get(name) is not None]
        if len(names) > 1:
            raise ValueError("give images once: as pixel_values, image_features, visual_tokens or visual_state")
        if image_index is None:
            if names:
                raise ValueError("images need an image_index: the image that each token sees")
            image_index = torch.full_like(input_ids, -1)
        if image_index.shape != input_ids.shape:
            raise ValueError(
                f"image_index {list(image_index.shape)} must have the shape of input_ids {list(input_ids.shape)}"
            )
        state = images.get("visual_state")
        if state is None:
            state = self.visual_state(self._visual_tokens(image_index, images, image_places))
        documents, m = state[0][0].shape[:2]
        if len(input_ids) % documents:
            raise ValueError(f"{len(input_ids)} rows of text cannot share the images of {documents} documents evenly")
        if check and int(image_index.max()) >= m:
            raise ValueError(f"image_index names image {int(image_index.max())}, but each document has {m}")
        if visual_index is None:
            visual_index = self.fusion.visual_index(input_ids, image_index, state, check=image_places is None)
        return VisualContext(state, image_index, visual_index)

    def _visual_tokens(self, image_index: Tensor, images: Mapping[str, Any], image_places: Tensor | None) -> Tensor:
        if images.get("pixel_values") is not None:
            tokens = self._encode_seen(self.encode_images, images["pixel_values"], image_index, image_places)
        elif images.get("image_features") is not None:
            tokens = self._encode_seen(self.resample, images["image_features"], image_index, image_places)
        elif images.get("visual_tokens") is not None:
            tokens = images["visual_tokens"]
        else:
            tokens = self.no_visual_tokens(len(image_index))
        width = self.connector.width
        if tokens.shape[-1] != width:
            raise ValueError(f"visual_tokens are {tokens.shape[-1]} wide, but the connector makes them {width} wide")
        return tokens

    def _encode_seen(
        self,
        encode: Callable[[Tensor], Tensor],
        images: Tensor,
        image_index: Tensor,
        image_places: Tensor | None,
    ) -> Tensor:
        """Returns the visual tokens of the images that some token sees; zeros for the others, such as padding."""
        b, m = images.shape[:2]
        if len(image_index) % b:
            return encode(images)  # visual_context raises an error
        if image_places is None:
            seen = self.fusion.seen_images(image_index, b, m)
            image_places = seen.flatten().nonzero().squeeze(1)
        if len(image_places) == b * m:
            return encode(images)
        encoded = images.flatten(0, 1).index_select(0, image_places)
        tokens = encode(encoded.unsqueeze(0))[0]
        all_tokens = tokens.new_zeros(b * m, *tokens.shape[1:]).index_copy(0, image_places, tokens)
        return all_tokens.unflatten(0, (b, m))

    def _connector_weight(self) -> Tensor:
        """Returns a parameter of the connector, which has its dtype and device."""
        return next(self.connector.parameters())
