"""The frozen encoder's features of pictures, computed once and kept on disk."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from flamingo.data.document import Crop, Frame, Image, Readable
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.transforms.pictures import frame_bytes, open_image
from flamingo.inference.features_folder import ENCODER, KEYS, ROWS, SHAPE, check_folder, features_identity, is_ownerless
from flamingo.inference.image_batches import padded
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.vision import encode_patches
from flamingo.utils.devices import processes, to_device
from flamingo.utils.errors import UserError
from flamingo.utils.io import append, remove_leftovers, write_text
from flamingo.utils.lock import owner
from flamingo.utils.progress import progress_bar
from flamingo.utils.reading import complete_lines
from flamingo.utils.sharing import batched, in_rounds, on_main_process

log = logging.getLogger(__name__)


class FeatureStore:
    """A folder with the features [p v] of every picture that was added. A picture is found by its content.

    ``encoder.json`` records the encoder and its settings, and ``shape.json`` p and v. ``patches.bin`` and
    ``pooled.bin`` have a row of features for each picture. ``keys.txt`` has a line for each: the digests of the picture
    and of its two rows. A row counts once its line is written, so that an interrupted pass continues from there. One
    run at a time adds rows, under the folder's lock; others may read meanwhile. A folder without a row belongs to no
    encoder.
    """

    def __init__(
        self,
        folder: Path,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        batch_size: int = 32,
    ) -> None:
        """Opens the folder, or creates it.

        Args:
            folder: The folder.
            model: Its encoder makes the features, in its own dtype.
            processor: The model's processor.
            batch_size: The number of pictures that run through the encoder at once.

        Raises:
            UserError: If the folder has features of another encoder, other settings or another dtype, or is damaged.
        """
        self.folder = folder
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self._keys = ContentKeys()
        self.dtype = model.vision_model.dtype
        self._identity = features_identity(model, processor)
        self._claim()
        self._open()

    def __contains__(self, image: Image) -> bool:
        return all(self._keys.of(frame) in self._rows for frame in image.frames)

    def __getitem__(self, image: Image) -> Float[Tensor, "f p v"]:
        """Returns the features of every frame.

        Raises:
            UserError: For a frame that was not added.
        """
        rows = self._rows_of(image)
        self._verify("patches.bin", self._patches, rows)
        return self._patches[rows]

    def stacked(self, images: Sequence[Image]) -> Float[Tensor, "m f p v"]:
        """Returns the features of several images, which have equal numbers of frames."""
        return torch.stack([self[image] for image in images])

    def pooled(self, images: Sequence[Image]) -> Float[Tensor, "images v"]:
        """Returns the mean over frames and patches for each image, on the encoder's device. Retrieval compares it."""
        means = []
        for image in images:
            rows = self._rows_of(image)
            self._verify("pooled.bin", self._pooled, rows)
            means.append(reduce(self._pooled[rows], "f v -> v", "mean"))
        return to_device(torch.stack(means), self.model.vision_model.device)

    def _rows_of(self, image: Image) -> list[int]:
        """Returns the row of each frame.

        Raises:
            UserError: For a frame that was not added.
        """
        rows = []
        for frame in image.frames:
            row = self._rows.get(self._keys.of(frame))
            if row is None:
                raise UserError(f"{self.folder} has no features of {frame}: it was not added, or has changed since")
            rows.append(row)
        return rows

    def add(self, images: Iterable[Image]) -> int:
        """Computes missing features. Waits for a process of another run that is adding some.

        All processes of a run call this method with the same images. They share the pictures in batches that do not
        depend on the number of processes, and the main process writes the files.

        Returns:
            The number of pictures whose features were computed.

        Raises:
            UserError: If a picture is broken, or a file cannot be written.
        """
        frames: dict[str, Frame] = {}
        for image in images:
            for frame in image.frames:
                frames[self._keys.of(frame)] = frame
        is_complete = frames.keys() <= self._rows.keys()
        if on_main_process(lambda: is_complete):
            if not is_complete:
                self._open()
            return 0  # no lock is needed
        with ExitStack() as stack:

            def begin() -> list[str]:
                stack.enter_context(owner(self.folder, wait=True))
                remove_leftovers(self.folder)
                self._claim()  # another encoder may have taken the folder over while it had no row
                self._open()
                self._cut_off_unfinished_rows()
                return [key for key in frames if key not in self._rows]

            missing = on_main_process(begin)
            self._compute(missing, frames)
        self._open()
        return len(missing)

    def _compute(self, missing: Sequence[str], frames: Mapping[str, Frame]) -> None:
        """Computes the features of pictures, and writes them in the order of their keys."""
        batches = batched(missing, self.batch_size)
        visible = bool(missing) and processes().is_main_process
        with progress_bar(len(missing), "picture", visible=visible, description="features") as bar:

            def encode(keys: Sequence[str]) -> Float[Tensor, "images p v"]:
                return self._encode([Image(frames[key]) for key in keys]).cpu()

            for of_round in in_rounds(encode, batches):
                on_main_process(partial(self._append, of_round))
                bar.update(sum(len(keys) for keys, _ in of_round))

    @torch.no_grad()
    def _encode(self, images: list[Image]) -> Float[Tensor, "images p v"]:
        encoder = self.model.vision_model
        pixels = rearrange(self.processor.pixel_values(images), "images 1 c h w -> images c h w")
        pixels = padded(pixels, self.batch_size, encoder.device)
        pixels = to_device(pixels, encoder.device).to(encoder.dtype)
        return encode_patches(encoder, pixels, self.model.config.vision_features)[: len(images)]

    def _append(self, batches: Sequence[tuple[Sequence[str], Float[Tensor, "_ p v"]]]) -> None:
        for keys, features in batches:
            self._append_batch(keys, features)

    def _append_batch(self, keys: Sequence[str], patches: Float[Tensor, "images p v"]) -> None:
        shape_file = self.folder / SHAPE
        if not shape_file.exists():
            shape = list(patches.shape[1:])
            write_text(shape_file, json.dumps(shape))
        pooled = reduce(patches.float(), "images p v -> images v", "mean")
        append(self.folder / "patches.bin", _bytes(patches))
        append(self.folder / "pooled.bin", _bytes(pooled))
        lines = []
        for key, patch_row, pooled_row in zip(keys, patches, pooled, strict=True):
            lines.append(f"{key} {_digest(patch_row)} {_digest(pooled_row)}\n")
        append(self.folder / KEYS, "".join(lines).encode())

    def _cut_off_unfinished_rows(self) -> None:
        """Removes the part of a line, and the rows without a line, that an interrupted pass has left."""
        for path, size in self._sizes.items():
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)

    def _claim(self) -> None:
        """Checks whose features the folder has, and takes over a folder that is new or has no row of features."""
        if is_ownerless(self.folder, self._identity):
            with owner(self.folder, wait=True):
                remove_leftovers(self.folder)
                if is_ownerless(self.folder, self._identity):  # unless another process came first
                    self._take_over()
        check_folder(self.folder, self._identity)

    def _take_over(self) -> None:
        if (self.folder / ENCODER).exists():
            log.info("%s: it was begun with another encoder and has no row of features: taken over", self.folder)
        for name in (SHAPE, KEYS, *ROWS):
            (self.folder / name).unlink(missing_ok=True)
        write_text(self.folder / ENCODER, json.dumps(self._identity, indent=1))

    def _open(self) -> None:
        """Maps the files into memory, without rows that another process is adding."""
        path = self.folder / KEYS
        lines = complete_lines(path)
        self._sizes = {path: sum(len(line) + 1 for line in lines)}
        self._rows: dict[str, int] = {}
        self._digests: list[list[bytes]] = []
        for row, line in enumerate(lines):
            key, *digests = line.split() or [b""]
            if len(digests) != len(ROWS):
                raise self._damaged(path, f"line {row + 1} has no three digests")
            self._rows[key.decode()] = row
            self._digests.append(digests)
        num_rows = len(lines)
        self._verified = np.zeros((num_rows, len(ROWS)), dtype=bool)
        p, v = self._shape(num_rows)
        self._patches = self._map("patches.bin", self.dtype, (num_rows, p, v))
        self._pooled = self._map("pooled.bin", torch.float32, (num_rows, v))

    def _shape(self, rows: int) -> list[int]:
        """Returns the numbers of patches p and of features v."""
        path = self.folder / SHAPE
        if not path.exists() and rows == 0:
            return [0, 0]
        try:
            p, v = json.loads(path.read_bytes())
            return [int(p), int(v)]
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(path, str(error)) from error

    def _map(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        path = self.folder / name
        numbers = int(np.prod(shape))
        size = numbers * dtype.itemsize
        self._sizes[path] = size
        size_on_disk = path.stat().st_size if path.exists() else 0
        if size_on_disk < size:
            raise self._damaged(path, f"it has {size_on_disk} bytes, and {size} were written")
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.from_file(str(path), shared=False, size=numbers, dtype=dtype).view(shape)

    def _verify(self, name: str, features: Tensor, rows: list[int]) -> None:
        """Checks that these rows of a file are unchanged. Each row is compared once.

        Raises:
            UserError: If a row differs from its digest.
        """
        column = ROWS.index(name)
        for row in rows:
            if self._verified[row, column]:
                continue
            written = self._digests[row][column].decode()
            if _digest(features[row]) != written:
                raise self._damaged(self.folder / name, f"row {row} is not what was written")
            self._verified[row, column] = True

    def _damaged(self, path: Path, reason: str) -> UserError:
        return UserError(f"{path} is damaged ({reason}): remove {self.folder}, and its features are computed again")


def _bytes(rows: Tensor) -> bytes:
    return rows.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _digest(row: Tensor) -> str:
    """Returns a digest of a row's shape and bytes."""
    shape = f"{list(row.shape)}".encode()
    return _sha256(shape + _bytes(row))[:16]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class ContentKeys:
    """Digests of pictures by their content: the bytes of a file, the pixels of an opened picture.

    A file is read again if its size or the time of its last change differs from those at the last read. A change
    that keeps both is not detected. A picture in a larger file, such as a shard, is read once per process.
    """

    def __init__(self) -> None:
        #: Name of a file or of a place in one -> its version at the last read, and the digest.
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}

    def of(self, frame: Frame) -> str:
        """Returns the digest of a frame.

        Raises:
            UserError: For a file that cannot be read.
        """
        if isinstance(frame, Crop):
            # "view" is an earlier name of a crop. Another text would change the keys of all stores.
            text = f"{self.of(frame.frame)} view {frame.number}"
            return _sha256(text.encode())
        if isinstance(frame, PILImage.Image):
            picture = open_image(frame)
            size = str(picture.size).encode()
            return _sha256(size + picture.tobytes())
        try:
            version = _version(frame)
            known = self._known.get(str(frame))
            if known is None or known[0] != version:
                known = (version, _sha256(frame_bytes(frame)))
                self._known[str(frame)] = known
        except (OSError, ValueError) as error:  # ValueError: for an invalid name, or a row without bytes
            raise UserError(f"image {frame} cannot be read: {error}") from error
        return known[1]


def _version(frame: Readable | str) -> tuple[int, ...]:
    """Returns the size and the time of the last change of a picture's own file; empty for a place in a larger file."""
    if not isinstance(frame, str | Path):
        return ()
    status = Path(frame).stat()
    return (status.st_size, status.st_mtime_ns)
