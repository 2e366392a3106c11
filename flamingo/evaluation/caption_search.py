"""Search among generated captions: the cosine of TF-IDF vectors over the tokens of captions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

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
        raise UserError("search by captions needs scikit-learn: pip install 'flamingo[retrieval]'") from error


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
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    tokenize = tokenizer_of(language)
    counter = CountVectorizer(analyzer=lambda caption: tokenize(caption).split())
    counter.fit([*training, *generated, *texts])
    weights = TfidfTransformer().fit(counter.transform(training))
    of_images = weights.transform(counter.transform(generated))
    of_texts = weights.transform(counter.transform(texts))
    return np.asarray((of_images @ of_texts.T).toarray())
