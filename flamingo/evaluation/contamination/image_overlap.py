"""Searches the pictures of an evaluation for duplicates of a training picture."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

from flamingo.evaluation.contamination.fingerprint import Fingerprint, Hash

#: The kinds of duplicates, the surest first.
SAME_FILE, SAME_PIXELS, NEAR = "same file", "same pixels", "near"
#: The bits of each number of 16 bits.
_COUNTS = np.array([number.bit_count() for number in range(2**16)], dtype=np.uint8)


@dataclass(frozen=True)
class ImageMatch:
    """A picture of an evaluation that is equal or similar to a training picture."""

    #: The number of the picture, in the order in which they were added.
    number: int
    #: One of SAME_FILE, SAME_PIXELS, NEAR.
    kind: str
    #: The bits of the hashes that differ; 0 for equal pictures.
    distance: int


class ImageSearch:
    """The fingerprints of the pictures of an evaluation."""

    def __init__(self, max_distance: int) -> None:
        """Makes a search without pictures.

        Args:
            max_distance: The most bits of 256 in which the hashes of near duplicates differ.
        """
        self.max_distance = max_distance
        self._files: dict[bytes, list[int]] = {}
        self._pixels: dict[bytes, list[int]] = {}
        self._hashes: list[Hash] = []
        #: The number of the picture of each hash. Flat pictures have none.
        self._hashed: list[int] = []
        #: All hashes; None until the next search.
        self._stacked: UInt16[np.ndarray, "pictures 16"] | None = None
        self._num_pictures = 0

    def add(self, fingerprint: Fingerprint) -> None:
        """Adds a picture. Pictures are numbered from 0."""
        number = self._num_pictures
        self._num_pictures += 1
        self._files.setdefault(fingerprint.file, []).append(number)
        self._pixels.setdefault(fingerprint.pixels, []).append(number)
        if fingerprint.hash is not None:
            self._hashes.append(fingerprint.hash)
            self._hashed.append(number)
            self._stacked = None

    @property
    def num_flat(self) -> int:
        """The number of pictures that only their checksums can find."""
        return self._num_pictures - len(self._hashed)

    def find(self, fingerprint: Fingerprint) -> list[ImageMatch]:
        """Returns all duplicates of a training picture, each once with its surest kind."""
        matches: dict[int, ImageMatch] = {}
        if fingerprint.hash is not None and self._hashes:
            if self._stacked is None:
                self._stacked = np.stack(self._hashes)
            distances = _COUNTS[self._stacked ^ fingerprint.hash].sum(axis=1, dtype=np.int64)
            for row in np.flatnonzero(distances <= self.max_distance).tolist():
                number = self._hashed[row]
                matches[number] = ImageMatch(number, NEAR, int(distances[row]))
        for number in self._pixels.get(fingerprint.pixels, ()):
            matches[number] = ImageMatch(number, SAME_PIXELS, 0)
        for number in self._files.get(fingerprint.file, ()):
            matches[number] = ImageMatch(number, SAME_FILE, 0)
        return list(matches.values())
