"""Flamingo-style few-shot captioning: a frozen vision encoder, a Perceiver Resampler, and gated
cross-attention inside a frozen language model.

Importing this package registers its classes with transformers, so that ``AutoConfig``, ``AutoModel``,
``AutoModelForImageTextToText`` and ``AutoProcessor`` find them.

The glossary of axes, used in every einops string and every signature:

=======  ==========================================================
``b``    document (a row of the batch)
``n``    sequence per document (beams, or several returned samples)
``m``    image of a document
``f``    frame of an image (1 for photographs)
``p``    patch, or cell of a convolutional grid
``r``    latent of the resampler: one visual token
``t``    text token
``d``    width of the language model
``v``    width of the vision encoder
``k``    attention head
``e``    width of one head
``c h w``  channels, height and width in pixels
=======  ==========================================================
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from flamingo.data.document import Document, Image, Text
from flamingo.data.processor import FlamingoProcessor
from flamingo.model.config import FlamingoConfig
from flamingo.model.modeling import FlamingoForConditionalGeneration

AutoConfig.register(FlamingoConfig.model_type, FlamingoConfig)
AutoModel.register(FlamingoConfig, FlamingoForConditionalGeneration)
AutoModelForImageTextToText.register(FlamingoConfig, FlamingoForConditionalGeneration)
AutoProcessor.register(FlamingoConfig, FlamingoProcessor)

__all__ = [
    "Document",
    "FlamingoConfig",
    "FlamingoForConditionalGeneration",
    "FlamingoProcessor",
    "Image",
    "Text",
]
