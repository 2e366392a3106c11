"""A trained model -> outputs: features, retrieval, generation."""

from dataclasses import dataclass

from flamingo.utils.checks import one_of

#: Names of dtypes that features are kept in.
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class FeaturesConfig:
    """The frozen encoder's features of captioned images, computed once."""

    #: Null: every image is opened and encoded each time.
    folder: str | None = None
    #: float32, bfloat16 (then computed in it, too) or float16; null: the encoder's own, which changes no result.
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            one_of("dtype", self.dtype, DTYPES)
