"""The template of questions: the text after an image in training documents and in prompts."""

from dataclasses import dataclass

from flamingo.utils.errors import UserError

_QUESTION, _ANSWER = "{question}", "{answer}"


@dataclass(frozen=True)
class QuestionTemplate:
    """A text with ``{question}`` that ends with ``{answer}``.

    A prompt ends before the spaces in front of the answer: tokenizers join a space to the word after it.

    Raises:
        UserError: Unless ``{question}`` and ``{answer}`` occur once each, the latter at the end.
    """

    text: str = "Question: {question} Short answer: {answer}"

    def __post_init__(self) -> None:
        if self.text.count(_QUESTION) != 1 or self.text.count(_ANSWER) != 1 or not self.text.endswith(_ANSWER):
            raise UserError(
                f"the template of questions must have one {_QUESTION} and end with its only {_ANSWER}: {self.text!r}"
            )

    def prompt(self, question: str) -> str:
        """Returns the text that the model continues with an answer."""
        before, _, after = self._without_answer.rstrip().partition(_QUESTION)
        return before + question + after

    @property
    def answer_start(self) -> str:
        """The spaces between the prompt and the answer."""
        return self._without_answer.removeprefix(self._without_answer.rstrip())

    def filled(self, question: str, answer: str) -> str:
        """Returns the whole text of a question with its answer."""
        return self.prompt(question) + self.answer_start + answer

    @property
    def _without_answer(self) -> str:
        return self.text.removesuffix(_ANSWER)
