"""Writes the URLs of images as img2dataset reads them, of OBELICS, MMC4 or tables of captions.

python -m experiments.list_urls root=DIR format=obelics output=urls.parquet
python -m experiments.list_urls root='DIR/docs_shard_*.zip' format=mmc4 output=urls.parquet
python -m experiments.list_urls root=Train_GCC-training.tsv format=caption_table output=urls.parquet
img2dataset --url_list urls.parquet --input_format parquet --output_format webdataset --output_folder DIR

A training reads the pictures from this folder, images=DIR. No URL is opened while data are read.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from flamingo.utils.checks import one_of

#: The formats whose shards name images by URLs.
WITH_URLS = ("obelics", "mmc4", "caption_table")


@dataclass(kw_only=True)
class ListUrlsConfig:
    """The shards and the list of their URLs."""

    #: The shards: a folder, a pattern in quotes, or a file.
    root: str
    #: The format of the shards: obelics, mmc4 or caption_table.
    format: str
    #: The .parquet file of the URLs, and of the captions if the shards have pairs.
    output: str

    def __post_init__(self) -> None:
        one_of("format", self.format, WITH_URLS)


main = command("list_urls", ListUrlsConfig, "experiments.runs.run_listing:run_job")

if __name__ == "__main__":
    main()
