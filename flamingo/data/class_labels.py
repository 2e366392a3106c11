"""Labels of images -> the names of their classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flamingo.data.records.record import Record
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json


def read_class_names(file: Path, key: str) -> dict[str, str]:
    """Returns id of a class -> its name. Ids have a space for each ``_``, as the names of class folders.

    Args:
        file: A JSON object.
        key: The key of the file, which errors name.

    Raises:
        UserError: If the file is not a JSON object of texts.
    """
    names = read_json(file)
    if not isinstance(names, dict) or not names:
        raise UserError(f"{key}={file} must be a JSON object: id of a class -> its name")
    by_label = {}
    for id, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{key}={file}: the name of {id!r} must be a text that is not empty")
        by_label[id.replace("_", " ")] = name.strip()
    return by_label


def labelled(record: Record, names: Mapping[str, str] | None, key: str) -> Record:
    """Returns the record with the name of its class as its only caption.

    Args:
        record: A labelled image: its caption is its label.
        names: Label -> the name of the class; None: labels are names.
        key: The key of the names, which errors name.

    Raises:
        UserError: If it has several captions, or its label has no name.
    """
    if len(record.captions) > 1:
        raise UserError(f"{record.id} has {len(record.captions)} captions: a labelled image has one label")
    if names is None:
        return record
    [label] = record.captions
    name = names.get(label, names.get(label.replace("_", " ")))
    if name is None:
        raise UserError(f"{record.id}: {key} has no name of {label!r}")
    return replace(record, captions=(name,))
