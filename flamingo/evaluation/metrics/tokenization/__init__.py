"""Captions -> the tokens that metrics compare, by language."""

from collections.abc import Callable

from flamingo.utils.kinds import import_name
from flamingo.utils.languages import primary_language

#: Returns the tokens of a caption, separated by single spaces.
Tokenize = Callable[[str], str]

#: Language -> "module:function" of its :data:`Tokenize`. All other languages use :data:`WORDS`.
TOKENIZERS = {
    "en": "flamingo.evaluation.metrics.tokenization.ptb:tokenize",
    "ja": "flamingo.evaluation.metrics.tokenization.characters:tokenize",
    "yue": "flamingo.evaluation.metrics.tokenization.characters:tokenize",
    "zh": "flamingo.evaluation.metrics.tokenization.characters:tokenize",
}
#: The tokenizer by Unicode's word boundaries.
WORDS = "flamingo.evaluation.metrics.tokenization.unicode_words:tokenize"


def tokenizer_of(language: str) -> Tokenize:
    """Returns the tokenizer of a language, such as ``en`` or ``zh-Hans``."""
    return import_name(TOKENIZERS.get(primary_language(language), WORDS))
