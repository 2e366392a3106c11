"""The template of captions: the text after an image, in training documents and in prompts."""

from dataclasses import dataclass, field

from flamingo.data.document import Affixes
from flamingo.utils.errors import UserError

#: The placeholder of the caption.
_CAPTION = "{caption}"


@dataclass(frozen=True)
class CaptionTemplate:
    """A text that ends with ``{caption}``, by default Flamingo's (section 3.1 and appendix B).

    A prompt ends before the spaces in front of the caption: tokenizers join a space to the word after it.

    Raises:
        UserError: Unless ``{caption}`` occurs once, at the end.
    """

    text: str = "Output: {caption}"
    #: The texts between the chunks of a prompt.
    affixes: Affixes = field(default_factory=Affixes)

    def __post_init__(self) -> None:
        if self.text.count(_CAPTION) != 1 or not self.text.endswith(_CAPTION):
            raise UserError(f"the template of captions must end with its only {_CAPTION}, got {self.text!r}")

    @property
    def prompt(self) -> str:
        """The text that the model continues with a caption."""
        return self.text.removesuffix(_CAPTION).rstrip()

    def answer(self, caption: str) -> str:
        """Returns the continuation of the prompt: the spaces of the template, and the caption."""
        return self.text.removesuffix(_CAPTION).removeprefix(self.prompt) + caption

    def filled(self, caption: str) -> str:
        """Returns the whole text of a captioned image."""
        return self.prompt + self.answer(caption)
