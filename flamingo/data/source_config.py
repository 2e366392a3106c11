"""The config of a source: how captioned images are read."""

from dataclasses import dataclass, field

from flamingo.data.splits import SplitsConfig
from flamingo.utils.checks import one_of

#: Actions for an image that cannot be opened, or whose file does not exist.
BROKEN_IMAGES = ("error", "skip")
#: Actions for a caption that the data mark as unusable.
REJECTED_CAPTIONS = ("skip", "keep")
#: Actions for a caption that has more tokens than a document.
TOO_LONG = ("cut", "skip")


@dataclass(kw_only=True)
class SourceConfig:
    """How captioned images are read."""

    #: The folder of the images, or of their folders, if the captions lie elsewhere.
    images: str | None = None
    #: The format of the captions; null: recognised by the files.
    format: str | None = None
    #: Images that cannot be opened, or whose files do not exist: an error, or left out. Those in shards are always left
    #: out.
    broken_images: str = "error"
    #: Captions that the data mark as rejected: skip or keep. VizWiz marks spam and a prepared sentence, and its
    #: evaluation code skips both.
    rejected_captions: str = "skip"
    #: Captions with too many tokens: cut after the last sentence that fits, or skipped. A skipped caption is left out
    #: with its image.
    too_long: str = "cut"
    #: Splits that are made where the data name none.
    splits: SplitsConfig = field(default_factory=SplitsConfig)

    def __post_init__(self) -> None:
        one_of("broken_images", self.broken_images, BROKEN_IMAGES)
        one_of("rejected_captions", self.rejected_captions, REJECTED_CAPTIONS)
        one_of("too_long", self.too_long, TOO_LONG)
