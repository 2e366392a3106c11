"""Captions -> the tokens that metrics compare, by language."""

from collections.abc import Callable

from flamingo.utils.kinds import import_name
from flamingo.utils.languages import primary_language

#: Returns the tokens of a caption, with one blank between them.
Tokenize = Callable[[str], str]

#: "module:function" of the :data:`Tokenize` of a language. Every other language has that of :data:`WORDS`.
TOKENIZERS = {
    "en": "flamingo.evaluation.metrics.tokenization.ptb:tokenize",
    "ja": "flamingo.evaluation.metrics.tokenization.characters:tokenize",
    "yue": "flamingo.evaluation.metrics.tokenization.characters:tokenize",
    "zh": "flamingo.evaluation.metrics.tokenization.characters:tokenize",
}
#: Words by the boundaries of Unicode.
WORDS = "flamingo.evaluation.metrics.tokenization.unicode_words:tokenize"


def tokenizer_of(language: str) -> Tokenize:
    """Returns the tokenizer of a language, such as ``en`` or ``zh-Hans``."""
    return import_name(TOKENIZERS.get(primary_language(language), WORDS))
