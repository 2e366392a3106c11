"""CLIPScore and RefCLIPScore (Hessel et al., arXiv 2104.08718) by any dual encoder.

The published scores are those of CLIP ViT-B/32. Scores of different encoders do not compare.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flamingo.data.document import Image
from flamingo.evaluation.metrics.resampling import Statistic, mean
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.model.fingerprints import fingerprint
from flamingo.model.vision_loading import load_vision_model
from flamingo.results import Row

log = logging.getLogger(__name__)

#: The beginning of each text, and the factor of the cosine.
PROMPT = "A photo depicts "
WEIGHT = 2.5


class ClipScore:
    """CLIPScore and RefCLIPScore. The encoder is loaded with the first scores, and vectors are computed once."""

    def __init__(self, encoder: str, images: Mapping[str, Image]) -> None:
        """Takes the encoder's name.

        Args:
            encoder: A dual encoder: a folder or a name on the hub.
            images: The image of each query, by the query's id.
        """
        self.name, self.images = encoder, images
        #: The fingerprint of the model's vision encoder; None: unknown.
        self.model_encoder: str | None = None
        self._vectors: dict[tuple[str, str], Tensor] = {}

    @cached_property
    def _encoder(self) -> DualEncoder:
        return DualEncoder(self.name)

    @cached_property
    def same_encoder(self) -> bool:
        """Whether the model that is scored sees its images by this encoder, which favours it."""
        if self.model_encoder is None or self.model_encoder != fingerprint(load_vision_model(self.name)):
            return False
        log.warning("CLIPScore: %s is also the vision encoder of the model, which favours its captions", self.name)
        return True

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns CLIPScore of each group of predictions, and RefCLIPScore if all queries have references."""
        statistics = []
        for rows in groups:
            outputs = self._texts([row["output"] for row in rows])
            images = self._images([row["query"] for row in rows])
            scores = clip_scores(images, outputs)
            about = {"encoder": self.name, "same_encoder": self.same_encoder}
            # Reports and comparisons go by names, so the name has the mark, too.
            mark = "_same_encoder" if self.same_encoder else ""
            of_group = {f"CLIPScore{mark}": mean(scores.tolist(), about)}
            if all(row["references"] for row in rows):
                references = [self._texts(row["references"]) for row in rows]
                with_references = ref_clip_scores(scores, outputs, references)
                of_group[f"RefCLIPScore{mark}"] = mean(with_references.tolist(), about)
            statistics.append(of_group)
        return statistics

    def _texts(self, captions: Sequence[str]) -> Float[Tensor, "captions width"]:
        missing = [caption for caption in dict.fromkeys(captions) if ("text", caption) not in self._vectors]
        if missing:
            vectors = self._encoder.text_vectors([PROMPT + caption for caption in missing])
            self._vectors.update({("text", caption): vector for caption, vector in zip(missing, vectors, strict=True)})
        return torch.stack([self._vectors["text", caption] for caption in captions])

    def _images(self, queries: Sequence[str]) -> Float[Tensor, "queries width"]:
        missing = [query for query in dict.fromkeys(queries) if ("image", query) not in self._vectors]
        if missing:
            vectors = self._encoder.image_vectors([self.images[query] for query in missing])
            self._vectors.update({("image", query): vector for query, vector in zip(missing, vectors, strict=True)})
        return torch.stack([self._vectors["image", query] for query in queries])


def clip_scores(
    images: Float[Tensor, "queries width"], outputs: Float[Tensor, "queries width"]
) -> Float[np.ndarray, " queries"]:
    """Returns CLIPScore of each query: 2.5 times the cosine of image and output, at least 0."""
    cosines = (images * outputs).sum(dim=-1)
    return WEIGHT * cosines.clamp(min=0).numpy()


def ref_clip_scores(
    scores: Float[np.ndarray, " queries"],
    outputs: Float[Tensor, "queries width"],
    references: Sequence[Float[Tensor, "_ width"]],
) -> Float[np.ndarray, " queries"]:
    """Returns RefCLIPScore of each query: the harmonic mean of CLIPScore and the largest cosine to a reference.

    Args:
        scores: The CLIPScore of each query.
        outputs: The vector of each output.
        references: The vectors of the references of each output.
    """
    values = []
    for score, output, of_output in zip(scores, outputs, references, strict=True):
        largest = max(float((of_output @ output).max()), 0.0)
        total = score + largest
        values.append(2 * score * largest / total if total > 0 else 0.0)
    return np.array(values)
