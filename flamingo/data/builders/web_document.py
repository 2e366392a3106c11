"""Pages -> documents: a window of each page, with few tokens and few images."""

from flamingo.data.builders import WebDocumentConfig
from flamingo.data.document import Document
from flamingo.data.drops import Dropped
from flamingo.data.page import Page
from flamingo.data.processor import FlamingoProcessor


class WebDocument:
    """Makes one document of a page, or says why there is none."""

    def __init__(self, config: WebDocumentConfig, processor: FlamingoProcessor, seed: int | str) -> None:
        """Makes the builder.

        Args:
            config: The windows and the filters.
            processor: Counts tokens and knows special tokens.
            seed: The seed of all random draws.
        """
        self.config, self.processor, self.seed = config, processor, seed

    def document(self, page: Page, position: int) -> Document | Dropped:
        """Returns the document of a page; a pure function of the seed and the position.

        Args:
            page: The page.
            position: The position of the page in the order of draws, over all epochs.
        """
        raise NotImplementedError
