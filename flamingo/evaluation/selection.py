"""The ways to select demonstrations, by their names in configs and result files, and their properties."""

from dataclasses import dataclass

#: The number of demonstrations in the paper's "zero-shot" prompts (Flamingo, section 3.1).
NUM_TEXT_ONLY = 2

#: What retrieved demonstrations are similar by: their images; their questions; their captions, which are compared with
#: the query's image; the image and the text together.
IMAGE, QUESTION, CAPTION, SUM = "image", "question", "caption", "sum"


@dataclass(frozen=True)
class Selection:
    """A way to select demonstrations."""

    #: What the demonstrations are similar to the query by; None: they are random.
    similarity: str | None = None
    #: Whether the prompt shows their images. Without images the setting has 0 shots, and NUM_TEXT_ONLY demonstrations.
    images: bool = True

    @property
    def retrieved(self) -> bool:
        """Whether the demonstrations are the candidates most similar to the query."""
        return self.similarity is not None


#: Random demonstrations.
RANDOM = "random"
#: Two random demonstrations without their images.
TEXT_ONLY = "text_only"

#: Name in configs and result files -> the selection.
SELECTIONS = {
    RANDOM: Selection(),
    TEXT_ONLY: Selection(images=False),
    "rices": Selection(IMAGE),  # Flamingo, section 3.1
    "rices_question": Selection(QUESTION),
    "rices_caption": Selection(CAPTION),
    "rices_sum": Selection(SUM),
}


def names_with_images() -> list[str]:
    """Returns the names of the selections that a setting with shots can have."""
    return [name for name, selection in SELECTIONS.items() if selection.images]
