"""Matching miniImageNet of VL-ICL Bench: whether two images are of the same class."""

from collections.abc import Sequence
from typing import ClassVar

from flamingo.data.readers.entries import field_of
from flamingo.evaluation.metrics.vl_icl import is_yes_or_no
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.random_draws import draw_positions, query_rng
from flamingo.evaluation.tasks.vl_icl_files import FileRow, VlIclFiles
from flamingo.evaluation.tasks.vl_icl_task import VlIclTask
from flamingo.utils.errors import UserError

#: The two pairs of a row of support.json, in the order of the prompt.
_PAIRS = ("same", "diff")
#: Parts of seeds: another text draws other rows, another order.
_ROW_STREAM, _ORDER_STREAM = "rows", "order of rows"


class Matching(VlIclTask):
    """Pairs of images. Demonstrations alternate between a pair of one class and a pair of two classes."""

    num_ways: ClassVar[int] = len(_PAIRS)
    measures_copying: ClassVar[bool] = False

    def _read_query(self, files: VlIclFiles, row: FileRow) -> Example:
        example = files.example(row)
        if example.references[0].lower() not in ("yes", "no"):
            raise UserError(f"{row.origin}: the answer must be Yes or No, got {example.references[0]!r}")
        return example

    def _read_support(self, files: VlIclFiles) -> None:
        self._rows: list[list[Example]] = []
        for row in files.rows("support"):
            pairs = []
            for name in _PAIRS:
                pair = FileRow(f"{row.id}/{name}", f"{row.origin}.{name}", field_of(row.fields, name, dict, row.origin))
                pairs.append(files.example(pair))
            self._rows.append(pairs)

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns the pairs of one class, and the pairs of two classes."""
        return [[row[way] for row in self._rows] for way in range(self.num_ways)]

    def rounds(self, query: Example, number: int, seed: int, order: int) -> list[list[Example]]:
        """Returns rows of the support, each a pair of one class and a pair of two.

        Args:
            query: The query.
            number: The number of rows.
            seed: The seed of the setting: it decides the rows.
            order: The number of a random order of the rows.

        Raises:
            UserError: If there are fewer rows.
        """
        if number > len(self._rows):
            raise UserError(f"{self.name}: the support has {len(self._rows)} rows, {number} are needed")
        positions = draw_positions(query_rng(seed, query, _ROW_STREAM), len(self._rows), number)
        query_rng(seed, query, _ORDER_STREAM, order).shuffle(positions)
        return [self._rows[position] for position in positions]

    def is_right(self, output: str, answer: str) -> bool:
        """Returns whether the output has a yes exactly if the answer is yes."""
        return is_yes_or_no(output, answer)
