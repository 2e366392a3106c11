"""Questions about images -> interleaved documents of random questions."""

import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from flamingo.data.builders import QuestionsConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document, Part, Text, in_one_chunk
from flamingo.data.order import index_at
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import QuestionRecord, chosen_answer, drawn_answer
from flamingo.data.records.record import Record
from flamingo.utils.errors import UserError


class Questions:
    """An endless data set of documents of several questions, each with its image and one of its answers.

    A document is a pure function of seed and position. In each epoch each question is the last one of one document, in
    the order of :func:`flamingo.data.order.index_at`. Only answers are trained on.
    """

    def __init__(
        self,
        config: QuestionsConfig,
        records: Sequence[Record],
        seed: int | str,
        neighbours: Int[np.ndarray, "images k"] | None = None,
        template: CaptionTemplate | None = None,
    ) -> None:
        """Makes the data set.

        Args:
            config: The number of questions of a document, their template, and the choice of answers.
            records: The questions, :class:`flamingo.data.records.question_record.QuestionRecord`.
            seed: The seed of all random draws.
            neighbours: Unused: the questions of a document are random.
            template: Unused: the config has the template of questions.

        Raises:
            UserError: For too few questions.
        """
        if config.max_images > len(records):  # all questions of a document are different
            raise UserError(f"max_images is {config.max_images}, but there are {len(records)} questions")
        self.config, self.records, self.seed = config, records, seed
        self.template = QuestionTemplate(config.question_template)

    def __getitem__(self, position: int) -> Document:
        rng = random.Random(f"{self.seed} {position}")
        last = index_at(position, len(self.records), self.seed)
        num_images = rng.randint(self.config.min_images, self.config.max_images)
        drawn = rng.sample(range(len(self.records)), num_images)
        before = [index for index in drawn if index != last][: num_images - 1]
        parts: list[Part] = []
        for index in [*before, last]:
            record = self.records[index]
            assert isinstance(record, QuestionRecord)
            answer = self._answer(record, rng)
            prompt = Text(self.template.prompt(record.question), train=False)
            parts += [*in_one_chunk(record.images), prompt, Text(self.template.answer_start + answer)]
        return Document(parts, id=f"{self.records[last].id} and {num_images - 1} others, no. {position}")

    def _answer(self, record: QuestionRecord, rng: random.Random) -> str:
        if self.config.answer == "random":
            return drawn_answer(record.captions, rng)
        return chosen_answer(record.captions, self.config.answer)
