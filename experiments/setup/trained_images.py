"""The images that a run was trained on, and the queries of an evaluation that show them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from flamingo.data.records.record import Record
from flamingo.data.source_config import SourceConfig
from flamingo.data.source_keys import DATA_KEYS
from flamingo.data.sources import list_split, read_split
from flamingo.data.splits import SplitsConfig
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_config
from flamingo.utils.reading import read_config

log = logging.getLogger(__name__)


def trained_records(run: Path, open_shards: bool) -> Sequence[Record]:
    """Returns the captioned images that a run's config names as its training data, if any.

    Data that cannot be read any more are logged.

    Args:
        run: The folder of the run.
        open_shards: Whether broken images in shards are left out, for which all are opened.
    """
    if not (run / "config.yaml").exists():
        return []
    data = read_config(run / "config.yaml")["data"]
    if data["root"] is None:
        return []
    values = {name: data[name] for name in ("images", "format", "broken_images", "rejected_captions", "too_long")}
    values["splits"] = load_config(SplitsConfig, data["splits"], "data.splits")
    source = load_config(SourceConfig, values, "data")
    try:
        if open_shards:
            return read_split(
                data["root"], source, data["split"], open_images=False, keys=DATA_KEYS, questions=None
            ).records
        return list_split(data["root"], source, data["split"], DATA_KEYS, questions=None)
    except UserError as error:
        log.warning("whether queries show images that %s was trained on is not known: %s", run, error)
        return []


def trained_queries_warning(task: str, queries: Sequence[Record], trained: Sequence[Record]) -> str | None:
    """Returns a sentence about the queries whose image files were trained on; None if there are none."""
    names = {_name(record) for record in trained}
    number = sum(_name(query) in names for query in queries)
    if number == 0:
        return None
    return (
        f"{task}: {number} of {len(queries)} queries show images that the run was trained on, so the scores say little "
        "about new images: set task.query or task.query_split to images that were held out"
    )


def _name(record: Record) -> tuple[str, ...]:
    """Returns what names the image of a record: the paths of its files, and the members of shards."""
    names = []
    for frame in record.image.frames:
        file = str(getattr(frame, "file", frame))
        names.append(str(frame).replace(file, os.path.realpath(file)))
    return tuple(names)
