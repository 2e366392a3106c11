"""Registers the classes of this package with the AutoClasses of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from flamingo.data.processor import FlamingoProcessor
from flamingo.model.config import FlamingoConfig
from flamingo.model.modeling import FlamingoForConditionalGeneration

__all__ = ["FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoProcessor"]

AutoConfig.register(FlamingoConfig.model_type, FlamingoConfig)
AutoModel.register(FlamingoConfig, FlamingoForConditionalGeneration)
AutoModelForImageTextToText.register(FlamingoConfig, FlamingoForConditionalGeneration)
AutoProcessor.register(FlamingoConfig, FlamingoProcessor)
