"""Prompts -> texts: pictures and what all prompts begin with run once, prompts of similar length together."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from flamingo.data.collate import Example, collate
from flamingo.data.document import Document, Frame, Image, View
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.features import FeatureStore
from flamingo.model.beam_search import decode, search
from flamingo.model.cache import PromptCache
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.checks import whole

#: Pictures that go through the encoder at once: prompts hold many, and it runs long before the language model.
_PICTURES_AT_ONCE = 32

#: What an image is known by: a name for each of its frames.
Key = tuple[str, ...]


@dataclass(frozen=True)
class _Prompt:
    """A prompt's tokens, its images, and for each token the number of the image that it sees, -1 for none."""

    input_ids: Int[Tensor, " t"]
    image_index: Int[Tensor, " t"]
    images: dict[Key, Image]
    numbers: list[Key]

    def said_and_seen(self) -> list[tuple[int, Key | None]]:
        """For each token its id and its image."""
        seen = [*self.numbers, None]
        pairs = zip(self.input_ids.tolist(), self.image_index.tolist(), strict=True)
        return [(token, seen[number]) for token, number in pairs]


class FlamingoEngine:
    """The engine of our models. The visual tokens of the pictures used last stay on the model's device."""

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        batch_size: int,
        features: FeatureStore | None = None,
        cache_bytes: int = 2**30,
    ) -> None:
        """
        Args:
            model: In evaluation mode.
            processor: The model's processor.
            batch_size: Prompts that run at once.
            features: The features of all pictures; no picture is opened and encoded then.
            cache_bytes: The most memory, in bytes, for visual tokens between batches. A batch keeps all that it needs.
        """
        whole("batch_size", batch_size, least=1)
        whole("cache_bytes", cache_bytes, least=0)
        if model.training:
            raise ValueError("the model is in training mode: call model.eval() first")
        self._cache_bytes = cache_bytes
        self.model, self.processor, self.batch_size, self.features = model, processor, batch_size, features
        #: In the order of their last use.
        self._visual_tokens: dict[Key, Float[Tensor, "r v"]] = {}
        processor.limit_length(model.config.text_config)

    def generate(
        self,
        prompts: Sequence[Document],
        max_new_tokens: int,
        num_beams: int = 1,
        blind: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """What follows each prompt, up to ``<|endofchunk|>`` and without blanks before it.

        ``blind``: no token attends to any image; the prompt keeps its markers. ``on_progress`` is
        called with the size of each batch that is done. Raises UserError for a broken image and for
        a prompt that leaves no room for ``max_new_tokens``.
        """
        room = self.processor.tokenizer.model_max_length - max_new_tokens
        rows = [self._prompt(document, room, blind) for document in prompts]
        # The longest first: should the memory not suffice, one hears of it at once.
        places = sorted(range(len(rows)), key=lambda place: -len(rows[place].input_ids))
        beginning = self._shared_beginning(rows)
        texts: dict[int, str] = {}
        for start in range(0, len(places), self.batch_size):
            batch = places[start : start + self.batch_size]
            outputs = self._generate([rows[place] for place in batch], beginning, max_new_tokens, num_beams)
            texts.update(zip(batch, outputs, strict=True))
            if on_progress:
                on_progress(len(batch))
        return [texts[place] for place in range(len(prompts))]

    def _prompt(self, document: Document, max_length: int, blind: bool) -> _Prompt:
        example = self.processor.encode(document, prompt=True, pixels=False, max_length=max_length)
        if blind:
            return _Prompt(example.input_ids, torch.full_like(example.image_index, -1), {}, [])
        images = [chunk.image for chunk in document.chunks() if chunk.image is not None]
        numbers = [tuple(map(_key, image.frames)) for image in images]
        return _Prompt(example.input_ids, example.image_index, dict(zip(numbers, images, strict=True)), numbers)

    def _shared_beginning(self, rows: Sequence[_Prompt]) -> PromptCache | None:
        """What the language model keeps of the tokens with which all prompts begin, as with the same demonstrations."""
        if len(rows) < 2 or not self._one_image_a_token or not self.model.shares_prefixes:
            return None
        length = _shared_length([row.said_and_seen() for row in rows])
        if length == 0:
            return None
        visual_tokens, [image_index] = self._pooled(rows[:1], slice(length))
        ids = rows[0].input_ids[:length].to(self.model.device).unsqueeze(0)
        with torch.no_grad():
            cache = self.model.visual_state(visual_tokens)
        shared = self.model.prefill(ids, torch.ones_like(ids), image_index.to(ids.device).unsqueeze(0), cache)
        assert isinstance(shared, PromptCache)
        return shared

    def _generate(
        self, rows: Sequence[_Prompt], beginning: PromptCache | None, max_new_tokens: int, num_beams: int
    ) -> list[str]:
        length = 0 if beginning is None else beginning.get_seq_length()
        own, end, tokenizer = slice(length, None), self.processor.end_of_chunk_token_id, self.processor.tokenizer
        gather = self._pooled if self._one_image_a_token else self._each_with_its_own
        visual_tokens, image_index = gather(rows, own)
        examples = [
            Example(row.input_ids[own], index, None, None) for row, index in zip(rows, image_index, strict=True)
        ]
        inputs = collate(examples, tokenizer.pad_token_id, "left")
        # Shorter prompts are padded behind what is shared; what that saw is in its cache already.
        for name, fill in (("input_ids", 0), ("attention_mask", 1), ("image_index", -1)):
            inputs[name] = F.pad(inputs[name], (length, 0), value=fill).to(self.model.device)
        inputs["input_ids"][:, :length] = rows[0].input_ids[:length]
        arguments = {**inputs, "visual_tokens": visual_tokens, "past_key_values": beginning}
        limits = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
        found = search(self.model, tokenizer, arguments, end=end, **limits)
        return [decode(tokenizer, ids, end) for ids in found.tolist()]

    @property
    def _one_image_a_token(self) -> bool:
        return self.model.config.fusion.attend == "last"

    def _pooled(self, rows: Sequence[_Prompt], tokens: slice) -> tuple[Float[Tensor, "1 m r v"], list[Tensor]]:
        """The images that ``tokens`` of any prompt see, each once; and of each prompt the numbers among these."""
        place: dict[Key, int] = {}
        image_index = []
        for row in rows:
            seen = set(row.image_index[tokens].tolist())
            places = [place.setdefault(k, len(place)) if i in seen else -1 for i, k in enumerate(row.numbers)]
            image_index.append(torch.tensor([*places, -1])[row.image_index[tokens]])
        images = {key: row.images[key] for row in rows for key in row.images}
        return self.visual_tokens([images[key] for key in place]).unsqueeze(0), image_index

    def _each_with_its_own(
        self, rows: Sequence[_Prompt], tokens: slice
    ) -> tuple[Float[Tensor, "b m r v"], list[Tensor]]:
        """All images of each prompt in their order: for tokens that see those before theirs, too."""
        counts = [len(row.numbers) for row in rows]
        each = self.visual_tokens([row.images[key] for row in rows for key in row.numbers]).split(counts)
        return pad_sequence(each, batch_first=True), [row.image_index[tokens] for row in rows]

    @torch.no_grad()
    def visual_tokens(self, images: Sequence[Image]) -> Float[Tensor, "m r v"]:
        """From memory, where an image was used before and is still kept."""
        keys = [tuple(map(_key, image.frames)) for image in images]
        new = {key: image for image, key in zip(images, keys, strict=True) if key not in self._visual_tokens}
        waiting = list(new.items())
        for start in range(0, len(waiting), _PICTURES_AT_ONCE):
            some = waiting[start : start + _PICTURES_AT_ONCE]
            tokens = self._resampled([image for _, image in some])
            for (key, _), own in zip(some, tokens, strict=True):
                self._visual_tokens[key] = own.clone()  # a view would keep the tokens of all pictures at once
        found = torch.stack([self._visual_tokens[key] for key in keys]) if keys else self.model.no_visual_tokens(1)[0]
        self._drop_least_recent(keys)
        return found

    def _drop_least_recent(self, used: Sequence[Key]) -> None:
        """Move the tokens that were just used to the end, and drop from the beginning down to the bound."""
        for key in used:
            self._visual_tokens[key] = self._visual_tokens.pop(key)
        size = sum(tokens.nbytes for tokens in self._visual_tokens.values())
        while size > self._cache_bytes:
            key = next(iter(self._visual_tokens))
            size -= self._visual_tokens.pop(key).nbytes

    def _resampled(self, images: Sequence[Image]) -> Float[Tensor, "m r v"]:
        if self.features is None:
            pixels = self.processor.pixel_values(images).to(self.model.device)
            return self.model.encode_images(pixels.unsqueeze(0))[0]
        return self.model.resample(self.features.stacked(images).to(self.model.device).unsqueeze(0))[0]


def _shared_length(rows: Sequence[Sequence[object]]) -> int:
    """How many elements all begin with, so that each has one more of its own."""
    first, *others = rows
    for i in range(min(map(len, rows)) - 1):
        if any(row[i] != first[i] for row in others):
            return i
    return min(map(len, rows)) - 1


def _key(frame: Frame) -> str:
    """A file's path, or what an opened picture shows: a task may render its pictures anew for each query."""
    if isinstance(frame, View):
        return f"{_key(frame.frame)} view {frame.number}"
    if isinstance(frame, PILImage.Image):
        picture = open_image(frame)
        return f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
    return str(frame)
