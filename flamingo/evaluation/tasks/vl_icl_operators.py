"""Operator induction of VL-ICL Bench: demonstrations show by their results which operator ``?`` stands for."""

from collections.abc import Sequence
from dataclasses import replace

from flamingo.data.readers.entries import field_of
from flamingo.evaluation.metrics.vl_icl import VL_ICL_ACCURACY, is_number
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.tasks.vl_icl_files import FileRow, VlIclFiles
from flamingo.evaluation.tasks.vl_icl_task import VlIclTask
from flamingo.utils.errors import UserError

#: The operators, in the order of the results of a candidate.
_OPERATORS = ("+", "-", "x")


class OperatorInduction(VlIclTask):
    """Two digits, in one image or in two. A candidate shows its result by the operator of the query."""

    def _read_query(self, files: VlIclFiles, row: FileRow) -> Example:
        operator = field_of(row.fields, "operator", str, row.origin)
        if operator not in _OPERATORS:
            raise UserError(f"{row.origin}: the operator must be one of {', '.join(_OPERATORS)}, got {operator!r}")
        return replace(files.example(row), group=operator)

    def _read_support(self, files: VlIclFiles) -> None:
        self._of_operator: dict[str, list[Example]] = {}
        rows = files.rows("support")
        for position, operator in enumerate(_OPERATORS):
            candidates = []
            for row in rows:
                result = _results(row)[position]
                candidates.append(files.example(row, str(result)))
            self._of_operator[operator] = candidates

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns all candidates with their results by the query's operator, as one group."""
        assert query.group is not None
        return [self._of_operator[query.group]]

    def is_right(self, output: str, answer: str) -> bool:
        """Returns whether the output's first number, without a sign, is the answer."""
        return is_number(output, answer)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``vl_icl_accuracy``, also by operator, and ``signed_accuracy``, which reads signs."""
        scores = super().score(query, prompt_examples, output)
        scores[f"{VL_ICL_ACCURACY}/operator/{query.group}"] = scores[VL_ICL_ACCURACY]
        scores["signed_accuracy"] = float(is_number(output, query.references[0], signed=True))
        return scores


def _results(row: FileRow) -> list[int | str]:
    """Returns the results of a candidate, one for each operator.

    Raises:
        UserError: If there are not as many.
    """
    results = field_of(row.fields, "answer", list, row.origin)
    are_results = all(isinstance(result, int | str) for result in results)
    if len(results) != len(_OPERATORS) or not are_results:
        names = ", ".join(_OPERATORS)
        raise UserError(f"{row.origin} needs 'answer', a list of its results by {names}; got {results!r:.80}")
    return results
