"""Image files -> a file of captions, one JSON line each. A second call captions the images that are missing."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from flamingo.data.document import Image
from flamingo.data.image_files import ImageFiles
from flamingo.data.records.record import by_reason
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.io import append, write_text
from flamingo.utils.progress import progress_bar
from flamingo.utils.reading import complete_rows
from flamingo.utils.sharing import batched, in_rounds, on_main_process

log = logging.getLogger(__name__)

#: Images by name -> captions.
Caption = Callable[[Mapping[str, Image]], Sequence[str]]


def caption_files(
    files: ImageFiles, output: Path, caption: Caption, batch_size: int, on_save: Callable[[], object]
) -> dict[str, str]:
    """Captions the images that have no row in ``output`` yet.

    A row is ``{"image": NAME, "caption": TEXT}``. Rows are on disk after each batch, in the order of the names. Several
    processes caption a batch each at a time. A broken file is tried again by the next call.

    Args:
        files: The images.
        output: The file of captions.
        caption: Captions opened pictures.
        batch_size: The number of images that are captioned at once.
        on_save: Called when rows are saved.

    Returns:
        Name -> the reason why an image has no row.

    Raises:
        UserError: For a line of ``output`` that is not a caption.
    """
    is_main_process = processes().is_main_process

    def begin() -> set[str]:
        captions = read_captions(output)
        write_rows(output, captions)
        return set(captions)

    done = on_main_process(begin)
    missing = [name for name in files.names if name not in done]
    batches = batched(missing, batch_size)
    skipped: dict[str, str] = {}

    def captions_of(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        pictures, broken = _opened(files.folder, names)
        captions = caption(pictures) if pictures else []
        return dict(zip(pictures, captions, strict=True)), broken

    def save(captions: Mapping[str, str]) -> None:
        append_captions(output, captions)
        on_save()

    with progress_bar(len(missing), " images", visible=is_main_process) as bar:
        for of_round in in_rounds(captions_of, batches):
            captions: dict[str, str] = {}
            for _, (of_batch, broken) in of_round:
                captions |= of_batch
                skipped |= broken
            if captions:
                on_main_process(partial(save, captions))
            bar.update(sum(len(names) for names, _ in of_round))
    if skipped and is_main_process:
        log.warning("left out %d images: %s", len(skipped), by_reason(skipped))
    return dict(sorted(skipped.items()))


def read_captions(output: Path) -> dict[str, str]:
    """Returns the caption of each image of a file, without a last line that a kill has cut off.

    Raises:
        UserError: For a line that is not a caption.
    """
    captions = {}
    for origin, row in complete_rows(output):
        if not (isinstance(row.get("image"), str) and isinstance(row.get("caption"), str)):
            raise UserError(f"{origin} is not a caption: it needs the texts 'image' and 'caption'")
        captions[row["image"]] = row["caption"]
    return captions


def append_captions(output: Path, captions: Mapping[str, str]) -> None:
    """Adds captions of images to a file of captions."""
    append(output, _lines(captions).encode())


def write_rows(output: Path, captions: Mapping[str, str]) -> None:
    """Replaces the content of a file of captions if it differs."""
    text = _lines(captions)
    if output.exists() and output.read_text(encoding="utf-8", errors="replace") != text:
        write_text(output, text)


def _lines(captions: Mapping[str, str]) -> str:
    rows = [{"image": name, "caption": caption} for name, caption in captions.items()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _opened(folder: Path, names: Sequence[str]) -> tuple[dict[str, Image], dict[str, str]]:
    """Returns the pictures that can be opened, and name -> the reason for the others."""
    pictures: dict[str, Image] = {}
    broken: dict[str, str] = {}
    for name in names:
        written = name.encode(errors="backslashreplace").decode()
        if written != name:
            broken[written] = "the name is not valid Unicode"
            continue
        try:
            pictures[name] = Image(open_image(folder / name))
        except UserError as error:
            broken[name] = f"the picture cannot be opened: {error}"
    return pictures, broken
