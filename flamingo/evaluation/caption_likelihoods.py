"""log p(caption | image) - log p(caption) of images and captions, kept in a file: a second start scores the rest."""

import io
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from flamingo.data.document import Document
from flamingo.inference.engine import Engine
from flamingo.utils.devices import processes
from flamingo.utils.io import write_bytes
from flamingo.utils.progress import progress_bar
from flamingo.utils.sharing import batched, in_rounds, on_main_process


class CaptionLikelihoods:
    """The log-likelihoods of the same candidates after the prompt of each image."""

    def __init__(
        self, path: Path, engine: Engine, prompts: Sequence[Document], candidates: Sequence[str], batch_size: int
    ) -> None:
        """Begins with the scores in the file.

        Args:
            path: The file: an array of numpy [images, candidates] of log p(caption | image), NaN where not scored.
            engine: Scores candidates.
            prompts: The prompt of each image.
            candidates: The captions, as texts that follow the prompts.
            batch_size: The number of images after which scores are saved.
        """
        self.path, self.engine, self.prompts, self.candidates = path, engine, prompts, candidates
        self.batch_size = batch_size

    @cached_property
    def prior(self) -> Float[np.ndarray, " candidates"]:
        """Log p(caption), after the first prompt with the query's image unseen. Prompts differ in this image alone."""
        [scores] = self.engine.score(self.prompts[:1], [self.candidates], end=True)
        return np.array(scores.prior_sums)

    def score(
        self, needed: Bool[np.ndarray, "images candidates"], on_save: Callable[[], object]
    ) -> Float[np.ndarray, "images candidates"]:
        """Returns log p(caption | image) - log p(caption) of the needed pairs, and -inf for all others.

        Pairs that the file does not have are scored, and added to the file after each batch of images.

        Args:
            needed: The pairs.
            on_save: Called when scores are saved.
        """
        on_main_process(partial(self._create, needed.shape))
        saved = np.load(self.path, mmap_mode="r")
        # A kill may leave a row whose last values are missing: they are NaN.
        missing = needed & np.isnan(saved)
        images = np.flatnonzero(missing.any(axis=1)).tolist()
        batches = batched(images, self.batch_size)

        def score(batch: Sequence[int]) -> list[list[float]]:
            candidates = []
            for image in batch:
                candidates.append([self.candidates[column] for column in np.flatnonzero(missing[image]).tolist()])
            prompts = [self.prompts[image] for image in batch]
            scores = self.engine.score(prompts, candidates, end=True, prior=False)
            return [list(one.sums) for one in scores]

        def save(batch: Sequence[int], sums: Sequence[Sequence[float]]) -> None:
            writable = np.load(self.path, mmap_mode="r+")
            for image, of_image in zip(batch, sums, strict=True):
                writable[image, missing[image]] = of_image
            writable.flush()
            on_save()

        with progress_bar(len(images), " images", visible=processes().is_main_process) as bar:
            for of_round in in_rounds(score, batches):
                for batch, sums in of_round:
                    on_main_process(partial(save, batch, sums))
                    bar.update(len(batch))
        return np.where(needed, np.load(self.path) - self.prior, -np.inf)

    def _create(self, shape: tuple[int, ...]) -> None:
        if not self.path.exists():
            write_bytes(self.path, _content(np.full(shape, np.nan)))


def _content(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()
