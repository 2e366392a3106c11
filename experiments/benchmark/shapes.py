"""Shapes of models with random weights, for measurements: a decoder like OPT, an encoder like CLIP, and inputs."""

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPVisionConfig, OPTConfig, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

#: The width of every feed-forward as a multiple of its input's.
MLP_RATIO = 4
#: Ids that random texts do not use: the first ones are special, and new tokens take the last ones.
_FIRST_WORD, _LAST_IDS = 4, 7


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    width: int
    layers: int
    heads: int
    vocab_size: int
    vision_width: int
    vision_layers: int
    image_size: int
    patch: int
    #: A gated block stands before every ``every``-th layer.
    every: int
    #: The heads of the gated blocks and of the resampler.
    num_heads: int
    head_dim: int
    resampler_depth: int
    num_latents: int

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def inner(self) -> int:
        """The total width of the heads of a gated block."""
        return self.num_heads * self.head_dim

    @property
    def words(self) -> range:
        """The token ids of random texts."""
        return range(_FIRST_WORD, self.vocab_size - _LAST_IDS)

    def language_config(self) -> OPTConfig:
        """Returns the config of the decoder, without dropout."""
        return OPTConfig(
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            ffn_dim=MLP_RATIO * self.width,
            word_embed_proj_dim=self.width,
            vocab_size=self.vocab_size,
            dropout=0.0,
            attention_dropout=0.0,
        )

    def vision_config(self) -> CLIPVisionConfig:
        """Returns the config of the encoder."""
        return CLIPVisionConfig(
            hidden_size=self.vision_width,
            intermediate_size=MLP_RATIO * self.vision_width,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=max(1, self.vision_width // 64),
            image_size=self.image_size,
            patch_size=self.patch,
        )

    def image_processor(self) -> Any:
        """Returns the image processor of the encoder."""
        square = {"height": self.image_size, "width": self.image_size}
        return CLIPImageProcessorPil(size=square, crop_size=square)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Returns a tokenizer with one token for each word, which fixes the lengths of texts."""
        vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
        for token_id in self.words:
            vocabulary[f"w{token_id}"] = token_id
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="</s>",
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            model_max_length=2048,
        )
