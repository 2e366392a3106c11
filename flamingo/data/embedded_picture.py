"""EmbeddedPicture: a picture whose bytes came with a page, as base64 in JSON or as a cell of a table."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EmbeddedPicture:
    """The bytes of a picture's file, in memory. ``name`` is unique: the shard, the sample and the image."""

    name: str
    content: bytes = field(repr=False)

    def read_bytes(self) -> bytes:
        """Returns the bytes of the picture's file."""
        return self.content

    def __str__(self) -> str:
        return self.name
