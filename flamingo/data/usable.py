"""Leaves out the captions that a tokenizer cannot write into documents: with special tokens, or too long."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flamingo.data.captions import Lazy, by_reason
from flamingo.data.document import PROMPT
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.sources import Chosen
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


def special_token_in(texts: Iterable[str], special: Sequence[str]) -> str | None:
    """Return the first special token that one of the texts contains, or None."""
    return next((token for text in texts for token in special if token in text), None)
