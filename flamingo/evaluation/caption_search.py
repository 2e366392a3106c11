"""Search among texts: the cosine of TF-IDF vectors over the tokens of captions or questions."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flamingo.evaluation.metrics.tokenization import tokenizer_of
from flamingo.utils.errors import UserError


def check_scikit_learn() -> None:
    """Checks that scikit-learn is installed.

    Raises:
        UserError: If it is not.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError("search by TF-IDF of texts needs scikit-learn: pip install 'flamingo[retrieval]'") from error


def caption_similarities(
    generated: Sequence[str], texts: Sequence[str], training: Sequence[str], language: str = "en"
) -> Float[np.ndarray, "images texts"]:
    """Returns the cosine of each image's generated caption with each text.

    A word's weight is its count times ln((1 + n) / (1 + d)) + 1, where d of the n training captions have the word.

    Args:
        generated: The generated caption of each image.
        texts: The texts.
        training: The captions that document frequencies are counted in.
        language: The language, which decides on the tokens.
    """
    of_images, of_texts = _weights(generated, texts, training, language)
    return np.asarray((of_images @ of_texts.T).toarray())


def text_similarities(
    queries: Sequence[str], texts: Sequence[str], language: str, block_size: int
) -> Iterator[Float[Tensor, "block texts"]]:
    """Yields the cosine of queries with each text, for a block of queries at a time.

    Words have the weights of :func:`caption_similarities`, with the document frequencies of ``texts``.

    Args:
        queries: The queries.
        texts: The texts.
        language: The language, which decides on the tokens.
        block_size: The number of queries that are compared at once.
    """
    of_queries, of_texts = _weights(queries, texts, texts, language)
    for start in range(0, len(queries), block_size):
        block = of_queries[start : start + block_size]
        yield torch.from_numpy((block @ of_texts.T).toarray()).float()


def _weights(first: Sequence[str], second: Sequence[str], training: Sequence[str], language: str) -> tuple[Any, Any]:
    """Returns the weights of the words of two lists of texts: sparse matrices, whose rows have length 1."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    # Tokenizing takes most of the time, and many questions are asked about several images.
    tokenize = tokenizer_of(language)
    texts = dict.fromkeys([*training, *first, *second])
    tokens = {text: tokenize(text).split() for text in texts}
    counter = CountVectorizer(analyzer=tokens.__getitem__)
    counter.fit(texts)
    weights = TfidfTransformer().fit(counter.transform(training))
    return weights.transform(counter.transform(first)), weights.transform(counter.transform(second))
