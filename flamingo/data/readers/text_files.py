"""Images in folders, each with its captions in a text file of the same name: a.jpg and a.txt."""

import logging
from dataclasses import replace
from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate
from flamingo.data.readers.entries import Entry, check_entries
from flamingo.data.records.record import LazySequence, RecordList, by_reason
from flamingo.data.splits import ROLES
from flamingo.utils.errors import UserError
from flamingo.utils.reading import lines

log = logging.getLogger(__name__)

#: The suffixes of images, in lower case.
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_TEXT = ".txt"


def text_files(location: Location) -> LazySequence:
    """Returns the images ``NAME.jpg`` (or ``png``, ``webp``, ...) with ``NAME.txt``, in which each line is a caption.

    The files lie in the folder or in its sub-folders. A sub-folder with the name of a split, such as ``train``,
    ``val`` or ``test``, is this split. The ids are the names of the images, relative to the folder. An image without
    a text, and a text without an image, is left out, counted and logged.

    Raises:
        UserError: If no image has a text, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    folder = location.files[0]
    entries, skipped = _entries(folder)
    if not entries:
        raise UserError(f"{folder} has no image with a text file of the same name: {by_reason(skipped)}")
    if skipped:
        log.warning("%s: left out %d: %s", folder, len(skipped), by_reason(skipped))
    images = None if location.captions_only else folder
    records = check_entries(replace(location, images=images), entries)
    return RecordList(records.records, records.skipped | skipped)


def is_text_file(candidate: Candidate) -> bool:
    """Returns whether the file is a ``.txt`` next to an image of the same name."""
    path = candidate.path
    if path.suffix != _TEXT:
        return False
    return any(path.with_suffix(suffix).exists() or path.with_suffix(suffix.upper()).exists() for suffix in IMAGES)


def _entries(folder: Path) -> tuple[list[Entry], dict[str, str]]:
    """Returns an entry for each image with a text, and name -> the reason why another image or text is left out."""
    entries: list[Entry] = []
    skipped: dict[str, str] = {}
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for holder in [folder] + below:
        split = holder.name if holder != folder and holder.name.lower() in ROLES else None
        texts, images = _named_alike(holder)
        for stem, names in images.items():
            relative = [str((holder / name).relative_to(folder)) for name in names]
            if stem not in texts:
                skipped.update(dict.fromkeys(relative, "it has no text file"))
            elif len(names) > 1:
                skipped.update(dict.fromkeys(relative, f"several images have one text file: {', '.join(names)}"))
            else:
                text = holder / texts[stem]
                captions = [line for _, line in lines(text)]
                entries.append(Entry(str(text), relative[0], relative[0], captions, split))
        for stem, name in texts.items():
            if stem not in images:
                skipped[str((holder / name).relative_to(folder))] = "it has no image"
    return entries, skipped


def _named_alike(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Returns stem -> the name of the text file, and stem -> the names of the images, of a folder."""
    texts: dict[str, str] = {}
    images: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.suffix == _TEXT:
            texts[path.stem] = path.name
        elif suffix in IMAGES:
            images.setdefault(path.stem, []).append(path.name)
    return texts, images
