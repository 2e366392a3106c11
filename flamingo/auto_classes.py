"""Registers the model and the processor with the AutoClasses of transformers. The config registers itself."""

from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from flamingo.data.processor import FlamingoProcessor
from flamingo.model.config import FlamingoConfig
from flamingo.model.modeling import FlamingoForConditionalGeneration

__all__ = ["FlamingoConfig", "FlamingoForConditionalGeneration", "FlamingoProcessor"]

AutoModel.register(FlamingoConfig, FlamingoForConditionalGeneration)
AutoModelForImageTextToText.register(FlamingoConfig, FlamingoForConditionalGeneration)
AutoProcessor.register(FlamingoConfig, FlamingoProcessor)
