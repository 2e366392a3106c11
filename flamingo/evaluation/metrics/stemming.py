"""Stems of answers as in OK-VQA: infinitives for words in -ing, singular for plural nouns. Needs nltk and its data."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from flamingo.utils.errors import UserError
from flamingo.utils.reading import cells

#: The data of nltk that are used.
_DATA = "punkt_tab, averaged_perceptron_tagger_eng and wordnet"

#: Answer -> its words with their parts of speech.
Tag = Callable[[str], list[tuple[str, str]]]


class Stemmer:
    """Stems the words of an answer, by their parts of speech and by a list of exceptions."""

    def __init__(
        self, tag: Tag, infinitive: Callable[[str], str], singular: Callable[[str], str], exceptions: Mapping[str, str]
    ) -> None:
        """Makes the stemmer.

        Args:
            tag: Returns the words of an answer with their parts of speech (Penn Treebank).
            infinitive: Returns the infinitive of a verb.
            singular: Returns the singular of a noun.
            exceptions: Word -> its stem, which takes precedence.
        """
        self.tag, self.infinitive, self.singular, self.exceptions = tag, infinitive, singular, exceptions

    def __call__(self, answer: str) -> str:
        """Returns the stems of an answer's words, joined by spaces."""
        return " ".join(self._stem(word, part) for word, part in self.tag(answer))

    def _stem(self, word: str, part: str) -> str:
        if word in self.exceptions:
            return self.exceptions[word]
        if word.endswith("ing"):
            return self.infinitive(word)
        if part in ("NNS", "NNPS"):
            return self.singular(word)
        return word


def load_stemmer(nltk_data: Path, stems: Path | None) -> Stemmer:
    """Returns the stemmer with the data of nltk in a folder.

    Args:
        nltk_data: The folder of nltk's data.
        stems: A file of exceptions: a line for each word, and its stem after a comma. None: there are none.

    Raises:
        UserError: If a package, data or the file is missing.
    """
    nltk, inflection = _package("nltk"), _package("inflection")
    if str(nltk_data) not in nltk.data.path:
        nltk.data.path.insert(0, str(nltk_data))
    lemmatizer = nltk.stem.WordNetLemmatizer()

    def tag(answer: str) -> list[tuple[str, str]]:
        return nltk.pos_tag(nltk.word_tokenize(answer))

    def infinitive(word: str) -> str:
        return lemmatizer.lemmatize(word, "v")

    stemmer = Stemmer(tag, infinitive, inflection.singularize, {} if stems is None else _exceptions(stems))
    try:
        stemmer("riding dogs")
    except LookupError as error:
        raise UserError(f"nltk_data={nltk_data} must have {_DATA}") from error
    return stemmer


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"nltk_data needs the package {name}: pip install 'flamingo[okvqa]'") from error


def _exceptions(file: Path) -> dict[str, str]:
    exceptions = {}
    for origin, row in cells(file):
        if len(row) != 2:
            raise UserError(f"{origin} must be a word and its stem with a comma between them, got {row}")
        word, stem = row
        exceptions[word.strip()] = stem.strip()
    return exceptions
