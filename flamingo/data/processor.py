"""FlamingoProcessor: documents -> token ids, labels, image_index, pixel values."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AddedToken, AutoConfig, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from flamingo.data.collate import Example, PaddingSide, collate
from flamingo.data.document import Document, Frame, Image
from flamingo.data.transforms.image_processors import load_image_processor
from flamingo.data.transforms.pictures import Aspect
from flamingo.data.transforms.pixels import normalized, resized
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: How configs of transformers call the number of positions.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")

IMAGE_TOKEN = "<image>"
END_OF_CHUNK_TOKEN = "<|endofchunk|>"


@dataclass(frozen=True)
class _Piece:
    """A stretch of the rendered text whose tokens see the same image and are all trained on or not."""

    text: str
    image: int
    train: bool


class FlamingoProcessor(ProcessorMixin):
    """An image processor and a tokenizer, to which the two tokens of Flamingo are added.

    A document becomes ``BOS <image>text<|endofchunk|> ... EOS`` (Flamingo, section 2.4). Which
    image a token sees is decided here, in ``image_index``; the model never looks for markers.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        bos: bool = True,
        eos: bool = True,
        aspect: Aspect = "as_is",
        new_tokens: Sequence[str] = (END_OF_CHUNK_TOKEN, IMAGE_TOKEN),
        end_of_chunk: str = END_OF_CHUNK_TOKEN,
        image_marker: str = IMAGE_TOKEN,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} gives no offsets; a fast tokenizer is needed")
        if aspect not in get_args(Aspect):
            raise UserError(f"aspect must be one of {', '.join(get_args(Aspect))}, got {aspect!r}")
        #: Whether documents begin with the tokenizer's BOS and end with its EOS, where it has them.
        self.bos, self.eos = bos, eos
        #: How a picture is made square; see :func:`flamingo.data.transforms.pictures.shaped`.
        self.aspect = aspect
        if image_marker.count(IMAGE_TOKEN) != 1:
            raise ValueError(f"image_marker must contain {IMAGE_TOKEN} once, got {image_marker!r}")
        #: Tokens that are added to the tokenizer, if it has them not; what ends a chunk; and what stands for an
        #: image, of which anything before ``<image>`` still sees the image before it. Other checkpoints than ours
        #: were trained with others: see :mod:`flamingo.interop`.
        self.new_tokens, self.end_of_chunk, self.image_marker = list(new_tokens), end_of_chunk, image_marker
        tokens = [AddedToken(t, special=True, normalized=False) for t in new_tokens]
        tokenizer.add_tokens(tokens, special_tokens=True)
        if tokenizer.pad_token is None:
            # Which token pads is of no consequence: the attention mask says what is padding.
            tokenizer.pad_token = tokenizer.eos_token or end_of_chunk
        self._special = tuple(dict.fromkeys([IMAGE_TOKEN, end_of_chunk, *special_tokens(tokenizer)]))

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | Path,
        text_model_name_or_path: str | Path,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> "FlamingoProcessor":
        """The image processor of the one and the tokenizer of the other; ``kwargs`` go to ``__init__``.

        ``image_size``: the side, in pixels, of what the encoder is given, if not the one it comes with. Raises
        UserError where one of the two is missing.
        """
        image_processor = load_image_processor(vision_model_name_or_path, image_size)
        tokenizer = from_pretrained(AutoTokenizer, text_model_name_or_path, "tokenizer")
        config = from_pretrained(AutoConfig, text_model_name_or_path, "language model")
        processor = cls(image_processor, tokenizer, **kwargs)
        processor.limit_length(config.get_text_config(decoder=True))
        return processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but a checkpoint's own code is not run unless ``trust_remote_code=True``."""
        kwargs.setdefault("trust_remote_code", False)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def limit_length(self, text_config: PreTrainedConfig) -> None:
        """Let no document be longer than the positions of the language model, where it states how many it has.

        Many tokenizers state no limit. The smaller one is the tokenizer's from here on, and is saved with it.
        """
        for name in _POSITIONS:
            positions = getattr(text_config, name, None)
            if isinstance(positions, int) and positions > 0:
                self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, positions)

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @property
    def end_of_chunk_token_id(self) -> int:
        """Ends a caption: the ``eos_token_id`` for ``generate``."""
        return self.tokenizer(self.end_of_chunk, add_special_tokens=False)["input_ids"][-1]

    def special_token_in(self, text: str) -> str | None:
        """Return a special token that the text contains, None if there is none; no document may contain one."""
        return next((token for token in self._special if token in text), None)

    @property
    def room(self) -> int:
        """How many tokens the chunks of a document may have: the limit without BOS, EOS and the end of a last chunk."""
        return self.tokenizer.model_max_length - 2 - self._length(self.end_of_chunk)

    def chunk_length(self, text: str) -> int:
        """Return the tokens that an image with this text has in a document, its marker and the chunk's end included."""
        return self._length(f"{self.image_marker}{text}{self.end_of_chunk}")

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def new_token_ids(self) -> list[int]:
        """Ids of the tokens whose embeddings are trained: ``FlamingoConfig.new_token_ids``."""
        return self.tokenizer.convert_tokens_to_ids(self.new_tokens)

    # ------------------------------------------------------------------------- documents

    def encode(
        self,
        document: Document,
        *,
        prompt: bool = False,
        next_image: bool = False,
        leading_space: bool = False,
        max_length: int | None = None,
        pixels: bool = True,
        as_bytes: bool = False,
    ) -> Example:
        """One document, unpadded.

        ``prompt`` leaves the last chunk open, to be continued, and makes no labels. ``next_image``:
        see :meth:`Document.chunks`. ``leading_space`` puts a space before the text of each chunk
        (Flamingo, appendix A.3.2). Without ``pixels`` no image is opened: for visual tokens that are
        at hand already. ``as_bytes``: of images what :meth:`normalized` takes. Raises UserError, naming the
        document, for a text that contains a special token of ours, a broken image, or more than ``max_length``
        tokens (by default the tokenizer's ``model_max_length``).
        """
        pieces, images = self._render(document, prompt, next_image, leading_space)
        ids, image_index, labels = self._tokenize(pieces, str(document), max_length)
        return Example(
            input_ids=torch.tensor(ids),
            image_index=torch.tensor(image_index),
            labels=None if prompt else torch.tensor(labels),
            pixel_values=self.pixel_values(images, str(document), as_bytes) if images and pixels else None,
        )

    def batch(
        self,
        documents: Sequence[Document],
        *,
        prompt: bool = False,
        padding_side: PaddingSide | None = None,
        p_next: float = 0.0,
        p_space: float = 0.0,
        rng: random.Random | None = None,
        max_length: int | None = None,
    ) -> BatchFeature:
        """Documents as one padded batch: on the left for prompts, else on the right.

        ``p_next`` and ``p_space`` are the probabilities of ``next_image`` and ``leading_space`` of
        :meth:`encode`, drawn from ``rng`` for each document.
        """
        coin = _coins(rng, p_next=p_next, p_space=p_space)
        examples = [
            self.encode(d, prompt=prompt, next_image=coin(p_next), leading_space=coin(p_space), max_length=max_length)
            for d in documents
        ]
        side = padding_side or ("left" if prompt else "right")
        return BatchFeature(collate(examples, self.tokenizer.pad_token_id, side))

    def _render(
        self, document: Document, prompt: bool, next_image: bool, leading_space: bool
    ) -> tuple[list[_Piece], list[Image]]:
        images: list[Image] = []
        pieces: list[_Piece] = []
        chunks = document.chunks(next_image)
        for chunk in chunks:
            if chunk.image is not None:
                pieces += self._marker(pieces[-1] if pieces else None, len(images))
                images.append(chunk.image)
            sees = len(images) - 1 if chunk.image is not None else -1
            for i, text in enumerate(chunk.texts):
                if (found := self.special_token_in(text.text)) is not None:
                    raise UserError(f"{document} has the special token {found} in its text")
                space = " " if leading_space and i == 0 and not text.text.startswith(" ") else ""
                pieces.append(_Piece(space + text.text, sees, text.train))
            if not (prompt and chunk is chunks[-1]):
                pieces.append(_Piece(self.end_of_chunk, sees, train=bool(chunk.texts) and chunk.texts[-1].train))
        if self.eos and not prompt and self.tokenizer.eos_token:
            pieces.append(_Piece(self.tokenizer.eos_token, pieces[-1].image, pieces[-1].train))
        return pieces, images

    def _marker(self, previous: _Piece | None, image: int) -> list[_Piece]:
        """What stands for an image; what precedes ``<image>`` in it stands once between two of them."""
        lead, after = self.image_marker.split(IMAGE_TOKEN)
        pieces = [_Piece(IMAGE_TOKEN + after, image, train=False)]
        if lead and not (previous and previous.text.endswith(lead)):
            pieces.insert(0, _Piece(lead, previous.image if previous else -1, train=False))
        return pieces

    def pixel_values(
        self, images: Sequence[Image], owner: str = "a batch", as_bytes: bool = False
    ) -> Float[Tensor, "m f c h w"] | UInt8[Tensor, "m f c h w"]:
        """Opened and preprocessed. Raises UserError for a broken image, or for ``owner``'s with different frames.

        ``as_bytes`` leaves :meth:`normalized` to be done, if the image processor allows it.
        """
        frames = {len(image.frames) for image in images}
        if len(frames) > 1:
            raise UserError(f"{owner} has images with {sorted(frames)} frames: all need the same number")
        pixels = resized(self.image_processor, [frame for image in images for frame in image.frames], self.aspect)
        if not as_bytes:
            pixels = normalized(self.image_processor, pixels)
        return pixels.unflatten(0, (len(images), frames.pop()))

    def normalized(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch whose ``pixel_values`` are bytes, with the floats that the model takes; any other as it is."""
        if "pixel_values" not in tensors:
            return dict(tensors)
        return {**tensors, "pixel_values": normalized(self.image_processor, tensors["pixel_values"])}

    # ------------------------------------------------------- the usual call: text with markers

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool | str = True,
        padding_side: PaddingSide = "left",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prompts as transformers' processors take them: texts with ``<image>`` markers, and their images.

        ``images`` (pictures, paths, or :class:`Image` for videos) is a list for one text, a list of
        lists for several. A marker's image is seen by
        all tokens up to the next marker. Raises ValueError where markers and images don't match.
        """
        if padding not in (True, "longest"):
            raise ValueError(f"prompts are padded to the longest of them; padding={padding!r} is not to be had")
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        if text is None:
            raise ValueError("a text is needed, if only the marker '<image>'")
        if isinstance(text, str):
            text, images = [text], [images if isinstance(images, list) else [] if images is None else [images]]
        if images is None:
            images = [[] for _ in text]
        if len(images) != len(text) or not all(isinstance(row, list) for row in images):
            raise ValueError(f"{len(text)} texts need {len(text)} lists of images")
        examples = [self._prompt(text[i], images[i], f"text {i}") for i in range(len(text))]
        return BatchFeature(collate(examples, self.tokenizer.pad_token_id, padding_side))

    def _prompt(self, text: str, images: list[Frame | Image], name: str) -> Example:
        head, *chunks = text.split(IMAGE_TOKEN)
        if len(chunks) != len(images):
            raise ValueError(f"{name} has {len(chunks)} <image> markers, but {len(images)} images were given")
        pieces = [_Piece(head, -1, False)]
        for i, chunk in enumerate(chunks):
            pieces += self._marker(pieces[-1], i)
            if chunk:
                pieces.append(_Piece(chunk, i, False))
        ids, image_index, _ = self._tokenize(pieces, name, max_length=None)
        wrapped = [image if isinstance(image, Image) else Image(image) for image in images]
        pixels = self.pixel_values(wrapped, name) if images else None
        return Example(torch.tensor(ids), torch.tensor(image_index), None, pixels)

    # --------------------------------------------------------------------------- internals

    def _tokenize(
        self, pieces: list[_Piece], name: str, max_length: int | None
    ) -> tuple[list[int], list[int], list[int]]:
        """Ids, image_index and labels. The text is tokenized whole, as a pretrained model knows it."""
        encoding = self.tokenizer(
            "".join(piece.text for piece in pieces), add_special_tokens=False, return_offsets_mapping=True
        )
        piece_of_character = [piece for piece in pieces for _ in piece.text]
        ids: list[int] = []
        image_index: list[int] = []
        labels: list[int] = []
        if self.bos and self.tokenizer.bos_token_id is not None:
            ids.append(self.tokenizer.bos_token_id)
            image_index.append(-1)
            labels.append(-100)
        for token, (_, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            # The last character, which is there even where a tokenizer's offsets leave out a token's spaces.
            piece = piece_of_character[max(end - 1, 0)]
            ids.append(token)
            image_index.append(piece.image)
            labels.append(token if piece.train else -100)
        if not ids:
            raise UserError(f"{name} has no token")
        limit = self.tokenizer.model_max_length if max_length is None else max_length
        if len(ids) > limit:
            raise UserError(f"{name} has {len(ids)} tokens, more than the {limit} that fit")
        return ids, image_index, labels


def special_tokens(tokenizer: Any) -> list[str]:
    """Return all texts that a tokenizer takes for a special token, those among them that have no role."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def _coins(rng: random.Random | None, **probabilities: float) -> Any:
    """A function that is True with a given probability."""
    for name, p in probabilities.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {p}")
        if 0 < p < 1 and rng is None:
            raise ValueError(f"{name}={p} is a matter of chance: give an rng")
    return lambda p: p == 1 or (p > 0 and rng is not None and rng.random() < p)
