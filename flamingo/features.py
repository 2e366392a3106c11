"""The frozen encoder's features of pictures, computed once and kept on disk; and which pictures are alike by them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from flamingo.data.document import Frame, Image, View
from flamingo.data.pictures import frame_bytes, open_image
from flamingo.data.processor import FlamingoProcessor
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.pretrained import fingerprint
from flamingo.model.vision import encode_patches
from flamingo.utils.errors import UserError

#: What features may be kept in.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Pictures whose similarity is at least this are taken for the same.
DUPLICATE = 0.9

#: Rows of a similarity matrix that are in memory at once.
_ROWS_AT_ONCE = 1024


class FeatureStore:
    """A folder with the features [p v] of every picture that was added, found again by what the picture shows.

    ``encoder.json`` says whose features they are, ``shape.json`` their p and v, ``keys.txt`` has a picture's digest
    a line, and ``patches.bin`` and ``pooled.bin`` their features, row by row. A row counts once its key is written, so
    that an interrupted pass goes on where it was.
    """

    def __init__(
        self,
        folder: Path,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Opens the folder, or makes it. ``dtype``: that of the features, by default the encoder's own.

        Raises UserError where the folder holds features of another encoder, of other settings or in
        another precision, and where it is damaged.
        """
        self.folder, self.model, self.processor = folder, model, processor
        self.dtype = dtype or model.vision_model.dtype
        self._patches = self._pooled = torch.empty(0)
        self._rows: dict[str, int] = {}
        self._check_encoder()
        self._open()

    # ------------------------------------------------------------------------------- reading

    def __contains__(self, image: Image) -> bool:
        return all(content_key(frame) in self._rows for frame in image.frames)

    def __getitem__(self, image: Image) -> Float[Tensor, "f p v"]:
        """Features of every frame. Raises UserError, naming the frame, where it was not added."""
        return self._patches[self._places(image)].to(self.model.vision_model.dtype)

    def stacked(self, images: Sequence[Image]) -> Float[Tensor, "m f p v"]:
        """Features of several images, which have the same number of frames."""
        return torch.stack([self[image] for image in images])

    def pooled(self, images: Sequence[Image]) -> Float[Tensor, "images v"]:
        """Of each image the mean over frames and patches: by these images are compared."""
        return torch.stack([reduce(self._pooled[self._places(image)], "f v -> v", "mean") for image in images])

    def _places(self, image: Image) -> list[int]:
        places = [self._rows.get(content_key(frame)) for frame in image.frames]
        for frame, place in zip(image.frames, places, strict=True):
            if place is None:
                raise UserError(f"{self.folder} has no features of {frame}: it was not added, or has changed since")
        return [place for place in places if place is not None]

    # ------------------------------------------------------------------------------- writing

    def add(self, images: Iterable[Image], batch_size: int = 32) -> int:
        """Compute what is missing; how many pictures that were. Raises UserError, naming it, for a broken picture."""
        self._open()  # another process may have added some
        missing: dict[str, Frame] = {}
        for image in images:
            for frame in image.frames:
                key = content_key(frame)
                if key not in self._rows:
                    missing[key] = frame
        waiting = list(missing.items())
        with tqdm(total=len(waiting), desc="features", unit="picture", disable=not waiting) as bar:
            for start in range(0, len(waiting), batch_size):
                some = dict(waiting[start : start + batch_size])
                self._append(list(some), self._encode([Image(frame) for frame in some.values()]))
                bar.update(len(some))
        self._open()
        return len(waiting)

    @torch.no_grad()
    def _encode(self, images: list[Image]) -> Float[Tensor, "images p v"]:
        encoder = self.model.vision_model
        pixels = rearrange(self.processor.pixel_values(images), "images 1 c h w -> images c h w")
        pixels = pixels.to(encoder.device, encoder.dtype)
        # What is kept in bfloat16 is computed in it, too: twice to four times as fast where a machine has it.
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return encode_patches(encoder, pixels, self.model.config.vision_features)

    def _append(self, keys: list[str], features: Float[Tensor, "images p v"]) -> None:
        if not (self.folder / "shape.json").exists():
            (self.folder / "shape.json").write_text(json.dumps(list(features.shape[1:])))
        pooled = reduce(features.float(), "images p v -> images v", "mean")
        for name, tensor in (("patches.bin", features.to(self.dtype)), ("pooled.bin", pooled)):
            with (self.folder / name).open("ab") as file:
                file.write(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
        with (self.folder / "keys.txt").open("a") as file:
            file.writelines(f"{key}\n" for key in keys)

    # ------------------------------------------------------------------------- opening, checking

    def _check_encoder(self) -> None:
        wanted = self._identity()
        path = self.folder / "encoder.json"
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(f"{self.folder} is not empty and holds no features: choose another folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(wanted, indent=1))
        there = json.loads(path.read_text())
        if different := [key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key)]:
            name = sorted(different)[0]
            raise UserError(
                f"{self.folder} holds features of another encoder: its {name} was {there.get(name)!r}, "
                f"and is {wanted.get(name)!r}. Choose another folder, or remove this one"
            )

    def _identity(self) -> dict[str, Any]:
        """Everything that the features of a picture depend on."""
        preparation = {k: v for k, v in self.processor.image_processor.to_dict().items() if not k.startswith("_")}
        return {
            "weights": fingerprint(self.model.vision_model),
            "precision": str(self.model.vision_model.dtype).removeprefix("torch."),
            "vision_features": asdict(self.model.config.vision_features),
            "preparation": json.loads(json.dumps(preparation, default=str)),
            "aspect": self.processor.aspect,
            "kept_as": str(self.dtype).removeprefix("torch."),
        }

    def _open(self) -> None:
        """Map what is there into memory; cut off rows that an interrupted pass has left without a key."""
        if not (self.folder / "keys.txt").exists():
            keys: list[str] = []
        else:
            *keys, unfinished = (self.folder / "keys.txt").read_text().split("\n")
            if unfinished:
                (self.folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
        self._rows = {key: row for row, key in enumerate(keys)}
        if not (self.folder / "shape.json").exists():
            return
        p, v = json.loads((self.folder / "shape.json").read_text())
        self._patches = self._map("patches.bin", self.dtype, (len(keys), p, v))
        self._pooled = self._map("pooled.bin", torch.float32, (len(keys), v))

    def _map(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        path, size = self.folder / name, int(np.prod(shape)) * dtype.itemsize
        there = path.stat().st_size if path.exists() else 0
        if there < size:
            raise UserError(f"{path} is damaged: it has {there} bytes, and {size} were written. Remove {self.folder}")
        if there > size:
            os.truncate(path, size)
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.from_file(str(path), shared=False, size=int(np.prod(shape)), dtype=dtype).view(shape)


def content_key(frame: Frame) -> str:
    """A digest of what a picture shows: of a file its bytes, of an opened picture its pixels."""
    if isinstance(frame, View):
        return hashlib.sha256(f"{content_key(frame.frame)} view {frame.number}".encode()).hexdigest()
    if isinstance(frame, PILImage.Image):
        picture = open_image(frame)
        return hashlib.sha256(str(picture.size).encode() + picture.tobytes()).hexdigest()
    try:
        return hashlib.sha256(frame_bytes(frame)).hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a name or a row that holds no bytes
        raise UserError(f"image {frame} cannot be read: {error}") from error


# ------------------------------------------------------------------------------- alike pictures


def nearest(
    queries: Float[Tensor, "queries v"], pool: Float[Tensor, "pool v"], number: int, duplicate: float = DUPLICATE
) -> Int[Tensor, "queries number"]:
    """Rows of ``pool`` most similar to each query, the most similar first, by exact search.

    Never the query itself: rows whose similarity is ``duplicate`` or more are passed over. Raises
    ValueError where too few rows are left.
    """
    found = []
    for similarity in _similarities(queries, pool):
        similarity[similarity >= duplicate] = -torch.inf
        if (left := int((similarity > -torch.inf).sum(dim=-1).min())) < number:
            raise UserError(f"a picture has {left} others that are no duplicates of it, not the {number} asked for")
        found.append(similarity.topk(number, dim=-1).indices)
    return torch.cat(found)


def near_duplicates(
    queries: Float[Tensor, "queries v"], pool: Float[Tensor, "pool v"], duplicate: float = DUPLICATE
) -> list[tuple[int, int, float]]:
    """All pairs (row of ``queries``, row of ``pool``, similarity) that are ``duplicate`` alike or more."""
    pairs = []
    for block, similarity in enumerate(_similarities(queries, pool)):
        for row, column in (similarity >= duplicate).nonzero().tolist():
            pairs.append((block * _ROWS_AT_ONCE + row, column, similarity[row, column].item()))
    return pairs


def _similarities(
    queries: Float[Tensor, "queries v"], pool: Float[Tensor, "pool v"]
) -> Iterator[Float[Tensor, "some pool"]]:
    """Cosines, for some queries at a time, of what differs from the pool's mean.

    Features of any two pictures have much in common, of some encoders nearly all: as they are, cosines of
    MobileNetV2's are 0.45 for photographs picked at random, of these differences 0.
    """
    mean = pool.mean(dim=0)
    pool = normalize(pool - mean, dim=-1)
    for some in queries.split(_ROWS_AT_ONCE):
        yield normalize(some - mean, dim=-1) @ pool.T
