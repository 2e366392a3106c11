"""The owner of a folder of features: the encoder, its settings and the preparation of pictures, in ``encoder.json``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flamingo.data.processor import FlamingoProcessor
from flamingo.model.fingerprints import fingerprint
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError
from flamingo.utils.io import is_leftover
from flamingo.utils.lock import HEARTBEAT, LOCK
from flamingo.utils.reading import complete_lines, json_object

#: The file with everything that the features of a folder depend on.
ENCODER = "encoder.json"
#: The file with a line for each row of features.
KEYS = "keys.txt"
#: Files with a row for each picture. The digests of the rows follow the picture's in each line of :data:`KEYS`.
ROWS = ("patches.bin", "pooled.bin")
#: The file with the numbers of patches and of features.
SHAPE = "shape.json"


def features_identity(model: FlamingoForConditionalGeneration, processor: FlamingoProcessor) -> dict[str, Any]:
    """Returns everything that the features of a picture depend on."""
    encoder = model.vision_model
    settings = processor.image_processor.to_dict()
    preparation = {key: value for key, value in settings.items() if not key.startswith("_")}
    return {
        "weights": fingerprint(encoder),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "vision_features": asdict(model.config.vision_features),
        "preparation": json.loads(json.dumps(preparation, default=str)),
        "aspect": processor.aspect,
    }


def is_ownerless(folder: Path, identity: dict[str, Any]) -> bool:
    """Returns whether a folder is new or empty, or has files of another identity without a row of features."""
    if not folder.exists():
        return True
    names = {entry.name for entry in folder.iterdir() if not is_leftover(entry.name)} - {LOCK, HEARTBEAT}
    if ENCODER not in names:
        return not names
    if names - {ENCODER, KEYS, SHAPE, *ROWS}:
        return False
    return not complete_lines(folder / KEYS) and _stored_identity(folder) != identity


def check_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Checks that a folder can have features of this identity. Writes nothing.

    Raises:
        UserError: If it has features of another identity, or other files.
    """
    if is_ownerless(folder, identity):
        return
    if not (folder / ENCODER).exists():
        raise UserError(f"{folder} is not empty and holds no features: choose another folder")
    stored_identity = _stored_identity(folder)
    for name in sorted(identity.keys() | stored_identity.keys()):
        stored = stored_identity.get(name)
        current = identity.get(name)
        if stored != current:
            raise UserError(
                f"{folder} holds features of another encoder: its {name} was {stored!r}, "
                f"and is {current!r}. Choose another folder, or remove this one"
            )


def _stored_identity(folder: Path) -> dict[str, Any]:
    """Returns everything that the features of a folder depend on.

    Raises:
        UserError: For a damaged file.
    """
    path = folder / ENCODER
    try:
        return json_object(path.read_bytes(), str(path))
    except UserError as error:
        raise UserError(f"{error}; remove {folder}, and its features are computed again") from error
