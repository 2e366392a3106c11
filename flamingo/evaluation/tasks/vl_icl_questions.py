"""Counting (CLEVR) and TextOCR of VL-ICL Bench: questions with demonstrations from one pool."""

from collections.abc import Sequence

from flamingo.evaluation.metrics.vl_icl import is_answer
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.tasks.vl_icl_files import VlIclFiles
from flamingo.evaluation.tasks.vl_icl_task import VlIclTask


class VlIclQuestions(VlIclTask):
    """Questions about one image each, with the same candidates for all queries."""

    def _read_support(self, files: VlIclFiles) -> None:
        self._candidates = [files.example(row) for row in files.rows("support")]

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns all candidates, as one group."""
        return [self._candidates]

    def is_right(self, output: str, answer: str) -> bool:
        """Returns whether the output's beginning equals the answer."""
        return is_answer(output, answer)
