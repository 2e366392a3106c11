"""VL-ICL Bench's query.json and support.json -> examples, whose images are named relative to the folder above."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flamingo.data.document import Image
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.listings import Listings
from flamingo.data.transforms.pictures import open_image
from flamingo.evaluation.protocol import Example
from flamingo.utils.checks import folder
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json


@dataclass(frozen=True)
class FileRow:
    """An element of ``query.json`` or ``support.json``, unchecked."""

    #: The file's name and the position of the row, such as ``query/0``.
    id: str
    #: The file and the position, for errors.
    origin: str
    fields: Any


class VlIclFiles:
    """The files of one task of the benchmark.

    Args:
        root: The folder that holds the folders of all tasks.
        name: The name of the task's folder.
        template: The text after the images.

    Raises:
        UserError: If there is no such folder.
    """

    def __init__(self, root: Path, name: str, template: QuestionTemplate) -> None:
        folder("task.root", root)
        self._root, self._folder, self._template = root, root / name, template
        self._listings = Listings()
        self._images: dict[str, Path] = {}
        self._tables: list[Path] = []

    @property
    def paths(self) -> list[Path]:
        """The files that were read: tables, and images."""
        return self._tables + list(self._images.values())

    def rows(self, part: str) -> list[FileRow]:
        """Returns the rows of ``query.json`` or ``support.json``.

        Args:
            part: query or support.

        Raises:
            UserError: If the file cannot be read, or is not a list.
        """
        file = self._folder / f"{part}.json"
        content = read_json(file)
        if not isinstance(content, list) or not content:
            raise UserError(f"{file} must be a list with at least one element")
        self._tables.append(file)
        return [FileRow(f"{part}/{number}", f"{file}[{number}]", row) for number, row in enumerate(content)]

    def example(self, row: FileRow, answer: str | None = None) -> Example:
        """Returns the example of a row with the fields ``image``, ``question`` and ``answer``.

        Args:
            row: The row.
            answer: The answer; None: that of the row, a text or a number.

        Raises:
            UserError: If a field is missing or malformed, or an image does not exist.
        """
        names = field_of(row.fields, "image", list, row.origin)
        question = field_of(row.fields, "question", str, row.origin)
        if answer is None:
            answer = str(field_of(row.fields, "answer", str | int, row.origin))
        return self.answered(row.id, self.images(names, row.origin), question, answer)

    def answered(self, id: str, images: Sequence[Image], question: str, answer: str) -> Example:
        """Returns an example whose question has one answer."""
        prompt, start = self._template.prompt(question), self._template.answer_start
        return Example(id, images[0], (answer,), prompt, answer_start=start, later_images=tuple(images[1:]))

    def images(self, names: list[Any], origin: str) -> list[Image]:
        """Returns the images of one or more names.

        Args:
            names: The names of the files, relative to the folder of all tasks.
            origin: The file and the row, for errors.

        Raises:
            UserError: If there is no name, one is not a text, or an image does not exist.
        """
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{origin} needs images, a list of names; got {names!r:.80}")
        return [Image(str(self._path(name, origin))) for name in names]

    def _path(self, name: str, origin: str) -> Path:
        if name not in self._images:
            path = self._listings.find(self._root, name)
            if path is None:
                raise UserError(f"{origin}: the image {name!r} is not a regular file in {self._root}")
            self._images[name] = path
        return self._images[name]

    def open_images(self) -> None:
        """Opens all images that were named, so that broken ones are found.

        Raises:
            UserError: If an image cannot be opened.
        """
        for path in tqdm(self._images.values(), "opening", unit=" images"):
            open_image(str(path))
