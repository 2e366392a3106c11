"""A dual encoder's vectors of images and texts, computed once and kept on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flamingo.data.document import Image
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.inference.features import ContentKeys
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.io import append, write_text
from flamingo.utils.lock import owner
from flamingo.utils.progress import progress_bar
from flamingo.utils.reading import json_object
from flamingo.utils.run_folder import model_contents
from flamingo.utils.sharing import batched, in_rounds, on_main_process

#: The file that names the encoder of the vectors.
_ENCODER = "encoder.json"
#: The numbers of bytes of a digest of a content, and of a digest of a record.
_KEY, _CHECK = 32, 16


class VectorStore:
    """Vectors of length 1 of the images and texts that were added. An encoder has a folder of its own below ``folder``.

    The encoder is loaded when a vector is missing.
    """

    def __init__(self, folder: Path, encoder: str, batch_size: int = 64) -> None:
        """Opens the vectors of an encoder.

        Args:
            folder: The folder with the vectors of all encoders.
            encoder: A dual encoder: a folder or a name on the hub.
            batch_size: The number of images or texts that run together.
        """
        self.encoder, self.batch_size = encoder, batch_size
        #: The identity of the encoder: checksums of its files, or its commit on the hub.
        self.contents = model_contents(encoder)
        digest = _sha256(json.dumps(self.contents, sort_keys=True).encode()).hex()
        self.folder = folder / digest[:16]
        self._image_keys = ContentKeys()
        self._images = _VectorFile(self.folder / "images.bin")
        self._texts = _VectorFile(self.folder / "texts.bin")

    def add_images(self, images: Iterable[Image]) -> int:
        """Computes missing vectors of the first frames of images.

        Returns:
            The number of vectors that were computed.

        Raises:
            UserError: If an image cannot be read, or a file cannot be written.
        """
        by_key = {self._key(image): image for image in images}
        return self._add(self._images, by_key, lambda batch: self._dual_encoder.image_vectors(batch), "image vectors")

    def add_texts(self, texts: Iterable[str]) -> int:
        """Computes missing vectors of texts.

        Returns:
            The number of vectors that were computed.

        Raises:
            UserError: If a file cannot be written.
        """
        by_key = {_sha256(text.encode()): text for text in texts}
        return self._add(self._texts, by_key, lambda batch: self._dual_encoder.text_vectors(batch), "text vectors")

    def images(self, images: Sequence[Image]) -> Float[Tensor, "images width"]:
        """Returns the vectors of images that were added."""
        return self._images[[self._key(image) for image in images]]

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Returns the vectors of texts that were added."""
        return self._texts[[_sha256(text.encode()) for text in texts]]

    def _key(self, image: Image) -> bytes:
        return bytes.fromhex(self._image_keys.of(image.frames[0]))

    @cached_property
    def _dual_encoder(self) -> DualEncoder:
        return DualEncoder(self.encoder, self.batch_size)

    def _add(
        self,
        file: "_VectorFile",
        contents: Mapping[bytes, Any],
        vectors_of: Callable[[Sequence[Any]], Float[Tensor, "batch width"]],
        description: str,
    ) -> int:
        """Computes the missing vectors of a file, in batches. Waits for a process of another run that is adding some.

        All processes of a run call this method with the same contents, and share the batches.

        Returns:
            The number of vectors that were computed.
        """
        is_complete = contents.keys() <= file.rows.keys()
        if on_main_process(lambda: is_complete):
            if not is_complete:
                file.read()
            return 0
        with ExitStack() as stack:

            def begin() -> list[bytes]:
                stack.enter_context(owner(self.folder, wait=True))
                file.reopen()
                return [key for key in contents if key not in file.rows]

            missing = on_main_process(begin)
            batches = batched(missing, self.batch_size)
            visible = bool(missing) and processes().is_main_process
            with progress_bar(len(missing), "vector", visible=visible, description=description) as bar:

                def encode(keys: Sequence[bytes]) -> Float[Tensor, "batch width"]:
                    return vectors_of([contents[key] for key in keys])

                for of_round in in_rounds(encode, batches):
                    on_main_process(partial(self._append, file, of_round))
                    bar.update(sum(len(keys) for keys, _ in of_round))
        file.read()
        return len(missing)

    def _append(
        self, file: "_VectorFile", batches: Sequence[tuple[Sequence[bytes], Float[Tensor, "batch width"]]]
    ) -> None:
        for keys, vectors in batches:
            self._record_encoder(vectors.shape[1])
            file.append(keys, vectors)

    def _record_encoder(self, width: int) -> None:
        path = self.folder / _ENCODER
        if not path.exists():
            about = {"encoder": self.encoder, "contents": self.contents, "width": width}
            write_text(path, json.dumps(about, indent=1))


class _VectorFile:
    """Records of equal length: the digest of a content, its vector, and a digest of both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read()

    def __getitem__(self, keys: Sequence[bytes]) -> Float[Tensor, "keys width"]:
        return self._vectors[[self.rows[key] for key in keys]]

    def read(self) -> None:
        """Reads all complete records.

        Raises:
            UserError: For a damaged record.
        """
        #: Digest of a content -> its row.
        self.rows: dict[bytes, int] = {}
        self._vectors = torch.empty(0, 0)
        self._complete = 0
        if not self.path.exists():
            return
        width = json_object((self.path.parent / _ENCODER).read_bytes(), str(self.path.parent / _ENCODER))["width"]
        record = _record(width)
        records = np.fromfile(self.path, dtype=record)
        for row, (key, vector, check) in enumerate(records):
            if _check(key.tobytes(), vector) != check.tobytes():
                raise UserError(
                    f"{self.path} is damaged: record {row} is not what was written. Remove {self.path.parent}, and its "
                    "vectors are computed again"
                )
            self.rows[key.tobytes()] = row
        self._complete = len(records) * record.itemsize
        self._vectors = torch.from_numpy(records["vector"].copy())

    def reopen(self) -> None:
        """Reads records of other processes, and cuts off an unfinished record. The caller owns the folder."""
        self.read()
        if self.path.exists() and self.path.stat().st_size > self._complete:
            with self.path.open("r+b") as stream:
                stream.truncate(self._complete)

    def append(self, keys: Sequence[bytes], vectors: Float[Tensor, "keys width"]) -> None:
        """Appends records. They are found after :meth:`read`."""
        records = np.empty(len(keys), dtype=_record(vectors.shape[1]))
        for row, (key, vector) in enumerate(zip(keys, vectors.numpy(), strict=True)):
            records[row] = (np.void(key), vector, np.void(_check(key, vector)))
        append(self.path, records.tobytes())


def _record(width: int) -> np.dtype:
    return np.dtype([("key", f"V{_KEY}"), ("vector", "<f4", (width,)), ("check", f"V{_CHECK}")])


def _check(key: bytes, vector: np.ndarray) -> bytes:
    return _sha256(key + vector.astype("<f4").tobytes())[:_CHECK]


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
