"""A sample answer of a training, as trackers show it."""

from dataclasses import dataclass

from PIL.Image import Image


@dataclass(frozen=True)
class Sample:
    """The model's last answer to a held-out document."""

    document: str
    picture: Image
    prompt: str
    output: str
    reference: str
