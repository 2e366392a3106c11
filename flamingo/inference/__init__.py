"""A trained model -> outputs: features, retrieval, generation."""

from dataclasses import dataclass

from flamingo.utils.checks import whole


@dataclass
class FeaturesConfig:
    """The frozen encoder's features of captioned images, computed once."""

    #: The folder of the features; null: images are opened and encoded each time.
    folder: str | None = None
    #: The number of images that run through the encoder at once.
    batch_size: int = 32

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, least=1)
