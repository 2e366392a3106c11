"""FlamingoProcessor: documents -> token ids, labels, image_index, pixel values."""

import copy
import random
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from transformers import AddedToken, AutoConfig, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.coins import check_coin, flip
from flamingo.data.collate import EncodedExample, PaddingSide, collate
from flamingo.data.document import Document, Image
from flamingo.data.pages.token_window import Tokens
from flamingo.data.rendering import Renderer, special_token_in
from flamingo.data.shortening import TooManyTokensError
from flamingo.data.text_markers import (
    IMAGE_TOKEN,
    Piece,
    learnt_span,
    pieces_at,
    pieces_of_text,
    special_tokens,
    texts_and_images,
)
from flamingo.data.transforms.image_processors import load_image_processor
from flamingo.data.transforms.pictures import Aspect
from flamingo.data.transforms.pixels import normalized, resized
from flamingo.utils.checks import one_of, whole
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: The names of the number of positions in configs of transformers.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")

END_OF_CHUNK_TOKEN = "<|endofchunk|>"


class FlamingoProcessor(ProcessorMixin):
    """An image processor, and a tokenizer with the two added tokens of Flamingo.

    A document becomes ``BOS <image>text<|endofchunk|> ... EOS`` (Flamingo, section 2.4). The processor decides which
    image a token sees, in ``image_index``. With ``tokens_per_image`` the marker takes as many positions.
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
        tokens_per_image: int = 0,
        caption_template: str = CaptionTemplate().text,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} gives no offsets; a fast tokenizer is needed")
        one_of("aspect", aspect, get_args(Aspect))
        #: Whether documents begin with the tokenizer's BOS and end with its EOS, if it has them.
        self.bos, self.eos = bos, eos
        #: How a picture is made square; see :func:`flamingo.data.transforms.pictures.shaped`.
        self.aspect = aspect
        #: Whether large JPEGs are decoded at a part of their size: see :meth:`drafted`.
        self.draft = False
        if image_marker.count(IMAGE_TOKEN) != 1:
            raise ValueError(f"image_marker must contain {IMAGE_TOKEN} once, got {image_marker!r}")
        #: Tokens that are added to the tokenizer; the token that ends a chunk; the text of an image, whose part before
        #: ``<image>`` sees the image before it. Checkpoints of other projects have other values: see
        #: :mod:`flamingo.interop`.
        self.new_tokens, self.end_of_chunk, self.image_marker = list(new_tokens), end_of_chunk, image_marker
        #: The number of markers per image, if visual tokens take their places; 0: one marker.
        self.tokens_per_image = tokens_per_image
        whole("tokens_per_image", tokens_per_image, least=0)
        #: The template of captions in training and in prompts. Its text is saved.
        self.caption_template, self.template = caption_template, CaptionTemplate(caption_template)
        tokens = [AddedToken(t, special=True, normalized=False) for t in new_tokens]
        tokenizer.add_tokens(tokens, special_tokens=True)
        if tokens_per_image > 0 and IMAGE_TOKEN not in tokenizer.get_vocab():
            raise UserError(f"tokens_per_image is {tokens_per_image}, but the tokenizer has no token {IMAGE_TOKEN}")
        if tokenizer.pad_token is None:
            # Any token may pad: the attention mask excludes padding.
            tokenizer.pad_token = tokenizer.eos_token or end_of_chunk
        self._special = tuple(dict.fromkeys([IMAGE_TOKEN, end_of_chunk] + special_tokens(tokenizer)))

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | Path,
        text_model_name_or_path: str | Path,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> "FlamingoProcessor":
        """Returns a processor with the image processor of one checkpoint and the tokenizer of another.

        Args:
            vision_model_name_or_path: The vision encoder.
            text_model_name_or_path: The language model.
            image_size: The side, in pixels, of the images that the encoder gets; None: the image processor's own.
            **kwargs: Arguments of the constructor.
        """
        image_processor = load_image_processor(vision_model_name_or_path, image_size)
        tokenizer = from_pretrained(AutoTokenizer, text_model_name_or_path, "tokenizer")
        config = from_pretrained(AutoConfig, text_model_name_or_path, "language model")
        processor = cls(image_processor, tokenizer, **kwargs)
        processor.limit_length(config.get_text_config(decoder=True))
        return processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the processor of a checkpoint. The checkpoint's code runs only with ``trust_remote_code=True``."""
        kwargs.setdefault("trust_remote_code", False)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def limit_length(self, text_config: PreTrainedConfig) -> None:
        """Limits documents to the number of positions of the language model, if its config has one.

        Many tokenizers have no limit. The smaller limit becomes the tokenizer's and is saved with it.
        """
        for name in _POSITIONS:
            positions = getattr(text_config, name, None)
            if isinstance(positions, int) and positions > 0:
                self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, positions)

    def drafted(self) -> "FlamingoProcessor":
        """Returns a processor with the same parts that decodes large JPEGs at a part of their size, for training."""
        processor = copy.copy(self)
        processor.draft = True
        return processor

    @property
    def image_token_id(self) -> int:
        """The id of the token that marks an image."""
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @property
    def end_of_chunk_token_id(self) -> int:
        """The id of the token that ends a caption: the ``eos_token_id`` of ``generate``."""
        return self.tokenizer(self.end_of_chunk, add_special_tokens=False)["input_ids"][-1]

    def special_token_in(self, text: str) -> str | None:
        """Returns a special token that the text contains; None if there is none. No document may contain one."""
        return special_token_in(text, self._special)

    @property
    def room(self) -> int:
        """The largest number of tokens in a document's chunks: the limit without BOS, EOS and the end of a chunk."""
        return self.tokenizer.model_max_length - 2 - self._length(self.end_of_chunk)

    def chunk_length(self, text: str, num_images: int = 1) -> int:
        """Returns the number of tokens of images with this text: their markers, the text and the end of the chunk."""
        return self._length(f"{self.image_marker * num_images}{text}{self.end_of_chunk}")

    def _length(self, text: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return sum(self._positions(token) for token in ids)

    @property
    def new_token_ids(self) -> list[int]:
        """The ids of the tokens whose embeddings are trained: ``FlamingoConfig.new_token_ids``."""
        return self.tokenizer.convert_tokens_to_ids(self.new_tokens)

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
    ) -> EncodedExample:
        """Returns one document, unpadded.

        Args:
            document: The document.
            prompt: Whether the last chunk stays open, to be continued. A prompt has no labels.
            next_image: Whether texts belong to the image after them: see :meth:`Document.chunks`.
            leading_space: Whether the text of each chunk begins with a space (Flamingo, appendix A.3.2).
            max_length: The largest number of tokens; None: the tokenizer's ``model_max_length``.
            pixels: Whether images are opened. Precomputed features need no pixels.
            as_bytes: Whether pixels stay bytes, for :meth:`normalized`.

        Raises:
            UserError: For a text with a special token, a broken image or too many tokens, by the document's id.
        """
        rendering = self._renderer.render(document, prompt, next_image, leading_space)
        tokens = self._tokenize(rendering.pieces, str(document), document.affixes.bos).within(document.window)
        self._check_length(tokens, str(document), max_length)
        images = rendering.images
        image_index = [piece.image for piece in tokens.pieces]
        if document.window is not None:
            shown = list(tokens.image_starts(self.image_token_id))
            images = [images[number] for number in shown]
            image_index = [shown.index(number) if number in shown else -1 for number in image_index]
        labels = [token if piece.train else -100 for token, piece in zip(tokens.ids, tokens.pieces, strict=True)]
        return EncodedExample(
            input_ids=torch.tensor(tokens.ids),
            image_index=torch.tensor(image_index),
            labels=None if prompt else torch.tensor(labels),
            pixel_values=self.pixel_values(images, str(document), as_bytes) if images and pixels else None,
            last_text=learnt_span(rendering.last_text, tokens.pieces),
            images=images,
        )

    def tokens(self, document: Document) -> Tokens:
        """Returns the tokens of a whole document of any length, without its window.

        Raises:
            UserError: For a text with a special token, by the document's id.
        """
        rendering = self._renderer.render(document, prompt=False, next_image=False, leading_space=False)
        return self._tokenize(rendering.pieces, str(document))

    @property
    def _renderer(self) -> Renderer:
        end = self.tokenizer.eos_token if self.eos else None
        return Renderer(self.image_marker, self.end_of_chunk, end or "", self._special, self.new_tokens)

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
        """Returns documents as one padded batch, which :func:`collate` describes.

        Prompts are padded on the left, other documents on the right. ``p_next`` and ``p_space`` are the probabilities
        of ``next_image`` and ``leading_space`` of :meth:`encode`, drawn from ``rng`` for each document.
        """
        check_coin("p_next", p_next, rng)
        check_coin("p_space", p_space, rng)
        examples = []
        for document in documents:
            next_image = flip(p_next, rng)
            leading_space = flip(p_space, rng)
            examples.append(
                self.encode(
                    document,
                    prompt=prompt,
                    next_image=next_image,
                    leading_space=leading_space,
                    max_length=max_length,
                )
            )
        side = padding_side or ("left" if prompt else "right")
        return BatchFeature(collate(examples, self.tokenizer.pad_token_id, side))

    def pixel_values(
        self, images: Sequence[Image], owner: str = "a batch", as_bytes: bool = False
    ) -> Float[Tensor, "m f c h w"] | UInt8[Tensor, "m f c h w"]:
        """Returns the preprocessed images, which have the same number of frames.

        ``owner`` is the document or text that errors name. With ``as_bytes`` pixels stay bytes, for :meth:`normalized`,
        if the image processor allows it.

        Raises:
            UserError: For a broken image, or different numbers of frames.
        """
        frames = {len(image.frames) for image in images}
        if len(frames) > 1:
            raise UserError(f"{owner} has images with {sorted(frames)} frames: all need the same number")
        all_frames = list(chain.from_iterable(image.frames for image in images))
        pixels = resized(self.image_processor, all_frames, self.aspect, self.draft)
        if not as_bytes:
            pixels = normalized(self.image_processor, pixels)
        return pixels.unflatten(0, (len(images), frames.pop()))

    def normalized(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
        """Returns a batch with ``pixel_values`` [b m f c h w] as floats. Its other tensors are unchanged."""
        if "pixel_values" not in tensors:
            return dict(tensors)
        batch = dict(tensors)
        batch["pixel_values"] = normalized(self.image_processor, tensors["pixel_values"])
        return batch

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool | str = True,
        padding_side: PaddingSide = "left",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Returns prompts from texts with ``<image>`` markers and their images, as processors of transformers do.

        ``images`` (pictures, paths, or :class:`Image` for videos) is a list for one text, a list of lists for several.
        All tokens up to the next marker see a marker's image.

        Raises:
            ValueError: If the numbers of markers and images differ, or an argument is not supported.
        """
        if padding not in (True, "longest"):
            raise ValueError(f"prompts are padded to the longest of them; padding={padding!r} is not supported")
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        texts, images_of_texts = texts_and_images(text, images)
        examples = []
        for number, (one, images_of_one) in enumerate(zip(texts, images_of_texts, strict=True)):
            examples.append(self._prompt(one, images_of_one, f"text {number}"))
        return BatchFeature(collate(examples, self.tokenizer.pad_token_id, padding_side))

    def _prompt(self, text: str, images: list[Image], name: str) -> EncodedExample:
        pieces = pieces_of_text(text, len(images), self.image_marker, name)
        tokens = self._tokenize(pieces, name)
        self._check_length(tokens, name, max_length=None)
        image_index = torch.tensor([piece.image for piece in tokens.pieces])
        pixel_values = self.pixel_values(images, name) if images else None
        return EncodedExample(torch.tensor(tokens.ids), image_index, None, pixel_values)

    def _tokenize(self, pieces: list[Piece], name: str, bos: bool = True) -> Tokens:
        # The text is tokenized whole, as in the pretraining of the language model.
        text = "".join(piece.text for piece in pieces)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = []
        piece_of_token: list[Piece] = []
        has_bos = bos and self.bos and self.tokenizer.bos_token_id is not None
        if has_bos:
            ids.append(self.tokenizer.bos_token_id)
            piece_of_token.append(Piece("", -1, train=False))
        owners = pieces_at(pieces, encoding["offset_mapping"])
        for token, piece in zip(encoding["input_ids"], owners, strict=True):
            positions = self._positions(token)
            ids += [token] * positions
            piece_of_token += [piece] * positions
        if not ids:
            raise UserError(f"{name} has no token")
        return Tokens(ids, piece_of_token, has_bos)

    def _check_length(self, tokens: Tokens, name: str, max_length: int | None) -> None:
        limit = self.tokenizer.model_max_length if max_length is None else max_length
        if len(tokens.ids) > limit:
            raise TooManyTokensError(f"{name} has {len(tokens.ids)} tokens, more than the {limit} that fit")

    def _positions(self, token: int) -> int:
        """Returns the number of positions that a token of the text takes."""
        if self.tokens_per_image == 0 or token != self.image_token_id:
            return 1
        return self.tokens_per_image
