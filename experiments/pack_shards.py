"""Packs pages with texts and images, or captioned images, of any layout into M4's tar files.

python -m experiments.pack_shards root=DIR format=obelics output=FOLDER
python -m experiments.pack_shards root='DIR/docs_shard_*.zip' format=mmc4 images=DIR output=FOLDER
python -m experiments.pack_shards root=DIR output=FOLDER                                       captioned images

format=m4 reads the pages, format=m4_pairs the captioned images. Each tar file has its number of samples and its index
beside it.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from flamingo.data.readers import READERS
from flamingo.data.streams import SHARD_FORMATS
from flamingo.utils.checks import one_of, whole

#: The layouts of pages.
PAGES = [name for name, format in SHARD_FORMATS.items() if format.has_pages]
#: The layouts of captioned images.
PAIRS = [name for name, format in READERS.items() if not format.has_questions]


@dataclass(kw_only=True)
class PackShardsConfig:
    """The samples and the folder of the tar files."""

    #: Pages or captioned images: a folder, a file, or shards in quotes.
    root: str
    #: The layout; null: that of captioned images, which is detected.
    format: str | None = None
    #: The folder of the images, if the files only name them.
    images: str | None = None
    #: The folder of the tar files, which must not exist.
    output: str
    #: The number of samples of a tar file.
    samples_per_shard: int = 1000

    def __post_init__(self) -> None:
        if self.format is not None:
            one_of("format", self.format, [*PAGES, *PAIRS])
        whole("samples_per_shard", self.samples_per_shard, least=1)


main = command("pack_shards", PackShardsConfig, "experiments.runs.run_packing:run_job")

if __name__ == "__main__":
    main()
