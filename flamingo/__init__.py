"""Flamingo-style few-shot captioning: Perceiver Resampler and gated cross-attention between frozen backbones.

The package imports its names when they are first used, so that the dataclasses of configs need neither torch nor
transformers. ``from flamingo import FlamingoProcessor``, or another of its Flamingo classes, registers all of them with
transformers: ``AutoConfig``, ``AutoModel``, ``AutoModelForImageTextToText`` and ``AutoProcessor`` then find them.

The glossary of axes, used in every einops string and every signature:

| axis      | |
|-----------|---|
| ``b``     | document (a row of the batch) |
| ``n``     | sequence per document (beams, or several returned samples) |
| ``bn``    | all sequences of a batch, document by document |
| ``m``     | image of a document |
| ``f``     | frame of an image (1 for photographs) |
| ``p``     | patch, or cell of a convolutional grid |
| ``r``     | visual token of an image |
| ``t``     | text token |
| ``s``     | token that attention sees: a key, in the cache or new |
| ``d``     | width of the language model |
| ``v``     | width of the vision encoder |
| ``k``     | attention head |
| ``e``     | width of one head |
| ``q``     | query of an attention |
| ``c h w`` | channels, height and width in pixels |
| ``gh gw`` | rows and columns of a grid of patches |

Any other axis has a noun: ``images``, ``queries``, ``vocabulary``, ``width``, ``classes``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flamingo.auto_classes import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor
    from flamingo.data.document import Document, Image, Text

__all__ = [
    "Document",
    "FlamingoConfig",
    "FlamingoForConditionalGeneration",
    "FlamingoProcessor",
    "Image",
    "Text",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flamingo' has no attribute {name!r}")
    module = "flamingo.auto_classes" if name.startswith("Flamingo") else "flamingo.data.document"
    return getattr(import_module(module), name)
