"""A store of pictures by their URLs. Nothing is downloaded while data is read."""

from typing import Protocol, runtime_checkable

from flamingo.data.document import Image


@runtime_checkable
class UrlStore(Protocol):
    """Pictures that were downloaded before."""

    def find(self, url: str) -> Image | None:
        """Returns the picture of a URL; None if the store lacks it. The picture is not opened."""
        ...
