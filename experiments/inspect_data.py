"""Reports on a data set: counts, lengths, sizes, duplicates, what is left out; shows its documents.

python -m experiments.inspect_data data.root=DIR
python -m experiments.inspect_data data.root=DIR data.split=train tokenizer=NAME output=summary.json
python -m experiments.inspect_data data=images data.root=DIR page=documents.html
python -m experiments.inspect_data data=streamed_pages data.documents.streamed.sources.pages.root=DIR page=pages.html

`data` has the keys of `data` in experiments.train. With `data=NAME` the documents of a training are made, counted and
timed. No model is loaded.
"""

from dataclasses import dataclass, field

from experiments.cli.command import command
from experiments.schema import DataConfig, check_documents
from flamingo.utils.checks import seed, whole
from flamingo.utils.errors import UserError


@dataclass(kw_only=True)
class InspectDataConfig:
    """The data set and the parts of the report."""

    data: DataConfig = field(default_factory=DataConfig)
    #: The language model whose tokens are counted, a folder or a hub name; null: none. Documents
    #: then have the tokens of the embedded one.
    tokenizer: str | None = None
    #: The vision encoder whose images the documents have: embedded, a folder or a hub name.
    vision: str = "embedded"
    #: The seed of the documents, as ``training.seed``.
    seed: int = 0
    #: Samples of each kind of documents that are made, counted and timed.
    counted_samples: int = 100
    #: Documents of each kind on the page.
    shown_documents: int = 5
    #: A file that gets documents with their images, as HTML; null: none. It has the image that each text sees.
    page: str | None = None
    #: Whether images are opened to find sizes, duplicates and broken files.
    open_images: bool = True
    #: A file that gets the whole report as JSON; null: none.
    output: str | None = None

    def __post_init__(self) -> None:
        seed("seed", self.seed)
        whole("counted_samples", self.counted_samples, least=1)
        whole("shown_documents", self.shown_documents, least=1)


def check_config(config: InspectDataConfig) -> None:
    """Checks values that depend on each other.

    Raises:
        UserError: With the key, for data without a source, and for a page without documents.
    """
    if config.data.documents:
        check_documents(config.data.without_neighbours(), None)
        return
    if config.data.root is None:
        raise UserError("data.root needs a value: captioned images or questions; or choose documents by data=NAME")
    if config.page is not None:
        raise UserError(f"page={config.page} shows documents: choose them by data=NAME")


main = command("inspect_data", InspectDataConfig, "experiments.runs.run_inspection:run_job", check_config)

if __name__ == "__main__":
    main()
