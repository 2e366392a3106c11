"""Open-ended miniImageNet of VL-ICL Bench: new names of classes that only the demonstrations bind to images."""

from collections.abc import Sequence
from typing import ClassVar

from flamingo.data.readers.entries import field_of
from flamingo.evaluation.metrics.vl_icl import VL_ICL_ACCURACY, answer_part, is_answer
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.random_draws import draw_positions, query_rng
from flamingo.evaluation.tasks import OpenMiConfig
from flamingo.evaluation.tasks.vl_icl_files import FileRow, VlIclFiles
from flamingo.evaluation.tasks.vl_icl_task import VlIclTask
from flamingo.utils.errors import UserError

#: The question of every demonstration, as in the benchmark's code.
_QUESTION = "This is a"
#: Parts of seeds: another text draws other classes, another order.
_CLASS_STREAM, _ORDER_STREAM = "classes", "order of classes"


class OpenMi(VlIclTask):
    """Each query has its own classes, of which ``num_ways`` are shown: its own, and random others.

    Demonstrations alternate between the classes, in a random order of these. The images of a class are shown in the
    order of the file.
    """

    measures_copying: ClassVar[bool] = False

    def __init__(self, config: OpenMiConfig) -> None:
        self.num_ways = config.num_ways
        self._support: dict[str, dict[str, list[Example]]] = {}
        super().__init__(config)

    def _read_query(self, files: VlIclFiles, row: FileRow) -> Example:
        query = files.example(row)
        names = field_of(row.fields, "classes", list, row.origin)
        if query.references[0] not in names:
            raise UserError(f"{row.origin}: the answer {query.references[0]!r} is not among classes={names!r:.80}")
        if len(names) < self.num_ways:
            raise UserError(f"{row.origin} has {len(names)} classes, but task.num_ways is {self.num_ways}")
        of_classes = field_of(row.fields, "support", dict, row.origin)
        self._support[row.id] = {}
        for name in names:
            origin = f"{row.origin}: the support of {name!r}"
            images = files.images(field_of(of_classes.get(name), "images", list, origin), origin)
            examples = []
            for number, image in enumerate(images):
                examples.append(files.answered(f"{row.id}/{name}/{number}", [image], _QUESTION, name))
            self._support[row.id][name] = examples
        return query

    def _read_support(self, files: VlIclFiles) -> None:
        """Reads nothing: the rows of the queries have their support."""

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns the candidates of all of the query's classes, a group for each."""
        return list(self._support[query.id].values())

    def rounds(self, query: Example, number: int, seed: int, order: int) -> list[list[Example]]:
        """Returns rounds through the shown classes, with one demonstration of each.

        Args:
            query: The query.
            number: The number of rounds.
            seed: The seed of the setting: it decides the other classes.
            order: The number of a random order of the classes.

        Raises:
            UserError: If a class has fewer images.
        """
        support = self._support[query.id]
        right = query.references[0]
        others = [name for name in support if name != right]
        drawn = draw_positions(query_rng(seed, query, _CLASS_STREAM), len(others), self.num_ways - 1)
        names = [right] + [others[position] for position in drawn]
        query_rng(seed, query, _ORDER_STREAM, order).shuffle(names)
        for name in names:
            if number > len(support[name]):
                raise UserError(
                    f"{self.name}: {name!r} of {query.id} has {len(support[name])} images, {number} are needed"
                )
        return [[support[name][position] for name in names] for position in range(number)]

    def is_right(self, output: str, answer: str) -> bool:
        """Returns whether the output's beginning equals the answer."""
        return is_answer(output, answer)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``vl_icl_accuracy``, ``valid_name_rate`` (the output is a name of the prompt), and the accuracy then.

        ``accuracy_of_valid`` is over outputs that are names of the prompt.
        """
        scores = super().score(query, prompt_examples, output)
        names = [example.references[0].lower() for example in prompt_examples]
        is_valid = answer_part(output).lower() in names
        scores["valid_name_rate"] = float(is_valid)
        if is_valid:
            scores["accuracy_of_valid"] = scores[VL_ICL_ACCURACY]
        return scores
