"""Prompts -> texts: each picture is encoded once, prompts of similar length run together."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from flamingo.data import collate
from flamingo.data.document import Document, Frame, Image, View
from flamingo.data.pictures import open_image
from flamingo.data.processor import FlamingoProcessor
from flamingo.features import FeatureStore
from flamingo.model.modeling import FlamingoForConditionalGeneration

#: Pictures that go through the encoder at once: prompts hold many, and it runs long before the language model.
_PICTURES_AT_ONCE = 32


class Decoder:
    """Continues prompts. The visual tokens of all pictures seen so far stay on the model's device."""

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        batch_size: int,
        features: FeatureStore | None = None,
    ) -> None:
        """``features``: those of all pictures, so that none needs to be opened and encoded."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if model.training:
            raise ValueError("the model is in training mode: call model.eval() first")
        self.model, self.processor, self.batch_size, self.features = model, processor, batch_size, features
        self._visual_tokens: dict[tuple[str, ...], Float[Tensor, "r v"]] = {}
        context = getattr(model.config.text_config, "max_position_embeddings", None)
        self._context = min(processor.tokenizer.model_max_length, context or processor.tokenizer.model_max_length)

    def __call__(
        self,
        prompts: Sequence[Document],
        max_new_tokens: int,
        num_beams: int = 1,
        blind: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """What follows each prompt, up to ``<|endofchunk|>`` and without blanks before it.

        ``blind``: no token attends to any image; the prompt keeps its markers. ``on_progress`` is
        called with the size of each batch that is done. Raises ValueError for a broken image and for
        a prompt that leaves no room for ``max_new_tokens``.
        """
        room = self._context - max_new_tokens
        encoded = [self.processor.encode(p, prompt=True, pixels=False, max_length=room) for p in prompts]
        # The longest first: should the memory not suffice, one hears of it at once.
        places = sorted(range(len(prompts)), key=lambda place: -len(encoded[place].input_ids))
        texts: dict[int, str] = {}
        for start in range(0, len(places), self.batch_size):
            batch = places[start : start + self.batch_size]
            images = [[c.image for c in prompts[place].chunks() if c.image is not None] for place in batch]
            inputs = collate.collate([encoded[place] for place in batch], self.processor.tokenizer.pad_token_id, "left")
            texts.update(zip(batch, self._generate(inputs, images, max_new_tokens, num_beams, blind), strict=True))
            if on_progress:
                on_progress(len(batch))
        return [texts[place] for place in range(len(prompts))]

    def _generate(
        self, inputs: dict[str, Tensor], images: list[list[Image]], max_new_tokens: int, num_beams: int, blind: bool
    ) -> list[str]:
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        if blind:
            inputs["image_index"] = torch.full_like(inputs["image_index"], -1)
        elif any(images):
            inputs["visual_tokens"] = self.visual_tokens(images)
        end = self.processor.end_of_chunk_token_id
        ids = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=num_beams,
            # Of beams the likeliest wins, as in OpenFlamingo's evaluation: a mean per token favours long texts.
            **({"length_penalty": 0.0} if num_beams > 1 else {}),
            max_new_tokens=max_new_tokens,
            eos_token_id=end,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
        rows = [row[: row.index(end)] if end in row else row for row in rows]
        decode = self.processor.tokenizer.decode
        return [decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False).lstrip() for row in rows]

    @torch.no_grad()
    def visual_tokens(self, images: Sequence[Sequence[Image]]) -> Float[Tensor, "b m r v"]:
        """Of each prompt's images, from memory where they were seen before; zeros after the last one."""
        keys = [[tuple(_key(frame) for frame in image.frames) for image in row] for row in images]
        new = {
            key: image
            for row, row_keys in zip(images, keys, strict=True)
            for image, key in zip(row, row_keys, strict=True)
            if key not in self._visual_tokens
        }
        waiting = list(new.items())
        for start in range(0, len(waiting), _PICTURES_AT_ONCE):
            some = waiting[start : start + _PICTURES_AT_ONCE]
            tokens = self._resampled([image for _, image in some])
            self._visual_tokens.update(zip((key for key, _ in some), tokens.unbind(), strict=True))
        rows = [[self._visual_tokens[key] for key in row_keys] for row_keys in keys]
        nothing = torch.zeros_like(next(iter(self._visual_tokens.values())))
        most = max(map(len, rows))
        return torch.stack([torch.stack([*row, *[nothing] * (most - len(row))]) for row in rows])

    def _resampled(self, images: Sequence[Image]) -> Float[Tensor, "m r v"]:
        if self.features is None:
            pixels = self.processor.pixel_values(images).to(self.model.device)
            return self.model.encode_images(pixels.unsqueeze(0))[0]
        return self.model.resample(self.features.stacked(images).to(self.model.device).unsqueeze(0))[0]


def _key(frame: Frame) -> str:
    """A file's path, or what an opened picture shows: a task may render its pictures anew for each query."""
    if isinstance(frame, View):
        return f"{_key(frame.frame)} view {frame.number}"
    if isinstance(frame, PILImage.Image):
        picture = open_image(frame)
        return f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
    return str(frame)
