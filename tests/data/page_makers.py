"""Pages for tests, and the documents that presets make of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image as PILImage

from flamingo.data.builders import SAMPLE_BUILDERS, WebDocumentConfig
from flamingo.data.document import Image
from flamingo.data.pages.page import Page, PageImage
from flamingo.utils.kinds import load_kind

PRESETS = Path(__file__).parents[2] / "conf" / "web_document"


def preset(name, **changes):
    """The config of a preset, with other values of some keys."""
    values = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    return replace(load_kind(SAMPLE_BUILDERS, values, "documents"), **changes)


def windows(max_tokens, max_images=9, **values):
    """A config without filters."""
    return WebDocumentConfig(max_tokens=max_tokens, max_images=max_images, **values)


def image(number=0, num_bytes=None):
    """An image whose picture has one gray: its number."""
    return PageImage(f"{number}.png", Image(PILImage.new("RGB", (8, 8), (number,) * 3)), num_bytes)


def missing():
    """An image without a picture."""
    return PageImage("0.png", None, fault="image missing")


def page(*parts, id="page"):
    """A page in reading order."""
    return Page(id, parts)


def unplaced_page(texts, images, sentences, similarity=0.3):
    """A page whose images have a similarity to one text each, and 0 to all others."""
    matrix = np.zeros((len(images), len(texts)))
    for number, sentence in enumerate(sentences):
        matrix[number, sentence] = similarity
    return Page("page", tuple(texts), unplaced=tuple(images), similarity=matrix)
