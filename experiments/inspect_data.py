"""Reports what a data set is like: counts, lengths, sizes, duplicates, and what is left out.

python -m experiments.inspect_data data.root=DIR
python -m experiments.inspect_data data.root=DIR data.split=train tokenizer=NAME output=summary.json

`data` has the keys that experiments.train reads captioned images by. No model is loaded.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from flamingo.data.source_config import SourceConfig


@dataclass(kw_only=True)
class InspectedDataConfig(SourceConfig):
    """The captioned images, as experiments.train reads them."""

    #: Captioned images: a folder, a file, shards in quotes, or hf://datasets/OWNER/NAME.
    root: str
    #: The split that is looked at; null: all splits.
    split: str | None = None


@dataclass(kw_only=True)
class InspectDataConfig:
    """What is looked at."""

    data: InspectedDataConfig
    #: The language model whose tokens are counted, a folder or a hub name; null: none are.
    tokenizer: str | None = None
    #: Whether images are opened, which finds broken ones, sizes and duplicates.
    open_images: bool = True
    #: A file that gets the whole report as JSON; null: none.
    output: str | None = None


main = command("inspect_data", InspectDataConfig, "experiments.runs.run_inspection:run_job")

if __name__ == "__main__":
    main()
