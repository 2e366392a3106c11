"""A folder, file or pattern -> the image files to read, by the suffixes of their names."""

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flamingo.utils.errors import UserError

SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFiles:
    """Image files, named by their paths below a folder."""

    folder: Path
    #: In alphabetical order, with ``/`` between folders.
    names: tuple[str, ...]
    #: Suffix -> the number of files that are not images.
    others: dict[str, int]


def find_images(root: str) -> ImageFiles:
    """Returns the images below a folder, the images that a pattern matches, or one image file.

    Hidden files and folders are skipped.

    Raises:
        UserError: If there is no image.
    """
    if Path(root).is_dir():
        folder, paths = Path(root), _below(root)
    else:
        folder, paths = _matching(root)
    others: Counter[str] = Counter()
    names = []
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            names.append(path.relative_to(folder).as_posix())
        else:
            others[suffix or "no suffix"] += 1
    if not names:
        found = f", but {sum(others.values())} other files" if others else ""
        raise UserError(f"there is no image in {root}{found}: images end in {', '.join(SUFFIXES)}")
    return ImageFiles(folder, tuple(sorted(names)), dict(others))


def _below(folder: str) -> list[Path]:
    paths = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(place, name) for name in files if not name.startswith(".")]
    return paths


def _matching(pattern: str) -> tuple[Path, list[Path]]:
    """Returns the folder before the first wildcard, and the files.

    Raises:
        UserError: If the pattern matches no file.
    """
    # pathlib's glob takes no absolute pattern.
    matches = [Path(pattern)] if Path(pattern).exists() else map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207
    files = [path for path in matches if path.is_file()]
    if not files:
        raise UserError(f"there is nothing at {pattern}")
    folder = files[0].parent
    while not all(path.is_relative_to(folder) for path in files):
        folder = folder.parent
    return folder, files
