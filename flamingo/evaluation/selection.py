"""The ways to select demonstrations, by their names in configs and result files, and their properties."""

from dataclasses import dataclass

#: The number of demonstrations in the paper's "zero-shot" prompts (Flamingo, section 3.1).
NUM_TEXT_ONLY = 2


@dataclass(frozen=True)
class Selection:
    """A way to select demonstrations."""

    #: Whether the demonstrations are the candidates most similar to the query, by features of the images. Otherwise
    #: they are random.
    retrieved: bool = False
    #: Whether the prompt shows their images. Without images the setting has 0 shots, and NUM_TEXT_ONLY demonstrations.
    images: bool = True


#: Random demonstrations.
RANDOM = "random"
#: Two random demonstrations without their images.
TEXT_ONLY = "text_only"

#: Name in configs and result files -> the selection.
SELECTIONS = {
    RANDOM: Selection(),
    TEXT_ONLY: Selection(images=False),
    "rices": Selection(retrieved=True),  # Flamingo, section 3.1
}


def names_with_images() -> list[str]:
    """Returns the names of the selections that a setting with shots can have."""
    return [name for name, selection in SELECTIONS.items() if selection.images]
