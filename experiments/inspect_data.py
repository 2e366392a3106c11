"""Reports on a data set: counts, lengths, sizes, duplicates, and images that are left out.

python -m experiments.inspect_data data.root=DIR
python -m experiments.inspect_data data.root=DIR data.split=train tokenizer=NAME output=summary.json

`data` has the keys of `data` in experiments.train. No model is loaded.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from flamingo.data.source_config import SourceConfig


@dataclass(kw_only=True)
class InspectedDataConfig(SourceConfig):
    """The captioned images, as experiments.train reads them."""

    #: Captioned images: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME.
    root: str
    #: The split to report on; null: all splits.
    split: str | None = None


@dataclass(kw_only=True)
class InspectDataConfig:
    """The data set and the parts of the report."""

    data: InspectedDataConfig
    #: The language model whose tokens are counted, a folder or a hub name; null: none.
    tokenizer: str | None = None
    #: Whether images are opened to find sizes, duplicates and broken files.
    open_images: bool = True
    #: A file that gets the whole report as JSON; null: none.
    output: str | None = None


main = command("inspect_data", InspectDataConfig, "experiments.runs.run_inspection:run_job")

if __name__ == "__main__":
    main()
