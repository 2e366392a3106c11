"""Data sets of any size, in shards: a shard is opened when one of its samples is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.data.pages.page import Page
from flamingo.data.records.record import Record
from flamingo.data.url_store import UrlStore

#: The place of a sample in its shard, as JSON can hold it.
Entry = Any
#: Returns the places of all samples of a shard: its index. Raises UserError for a shard that cannot be read.
Entries = Callable[[Path], Sequence[Entry]]
#: Returns the sample at a place of a shard. The third argument is the folder of the images, or a store of them by their
#: URLs; None: they are in the shard, or beside it. Raises UserError for a broken sample; the message begins with the
#: kind of the fault, up to a colon.
ReadSample = Callable[[Path, Entry, Path | UrlStore | None], Record | Page]
#: Returns the number of samples of a shard from what lies beside it or from its footer; None if only its index tells.
Count = Callable[[Path], int | None]


@dataclass(frozen=True)
class ShardFormat:
    """A layout of shards on disk."""

    #: A description of its files, for errors that list all formats.
    looks: str
    #: "module:function" of the :data:`Entries`.
    entries: str
    #: "module:function" of the :data:`ReadSample`.
    sample: str
    #: "module:function" of the :data:`Count`; None: only the index tells the number of samples.
    count: str | None = None
    #: Patterns of the names of its shards in a folder.
    files: tuple[str, ...] = ()
    #: Whether samples are :class:`flamingo.data.pages.page.Page`; otherwise they are
    #: :class:`flamingo.data.records.record.Record`.
    has_pages: bool = False
    #: Whether a shard is a single sample, such as an HTML file. Its index is then not kept in a file.
    one_sample: bool = False


#: The formats by the names that ``format`` of a streamed source has for them.
SHARD_FORMATS: dict[str, ShardFormat] = {
    "tar": ShardFormat(
        "WebDataset's .tar shards, KEY.jpg with KEY.json or KEY.txt, also in the folder data/",
        "flamingo.data.readers.tar_shards:tar_entries",
        "flamingo.data.readers.tar_shards:tar_pair",
        "flamingo.data.readers.tar_shards:tar_count",
        files=("*.tar", "data/*.tar"),
    ),
    "parquet": ShardFormat(
        ".parquet shards with the columns image (img2dataset: jpg) and captions, caption or text, also in data/",
        "flamingo.data.readers.parquet_shards:parquet_entries",
        "flamingo.data.readers.parquet_shards:parquet_pair",
        "flamingo.data.readers.parquet_shards:parquet_count",
        files=("*.parquet", "data/*.parquet"),
    ),
    "img2dataset_files": ShardFormat(
        'img2dataset\'s output format "files": 00000.parquet and the folder 00000 with KEY.jpg, KEY.json and KEY.txt',
        "flamingo.data.readers.img2dataset_files:img2dataset_entries",
        "flamingo.data.readers.img2dataset_files:img2dataset_pair",
        "flamingo.data.readers.tar_shards:tar_count",
        files=("*.parquet",),
    ),
    "caption_table": ShardFormat(
        "tables of captions and URLs or paths of images: LAION's and COYO's .parquet, CC3M's and CC12M's .tsv",
        "flamingo.data.readers.caption_table:table_entries",
        "flamingo.data.readers.caption_table:table_pair",
        "flamingo.data.readers.caption_table:table_count",
        files=("*.parquet", "*.tsv"),
    ),
    "mmc4": ShardFormat(
        "MMC4's docs_shard_N_v2.jsonl, also in .zip, with image_dir/N/NAME or a store of URLs",
        "flamingo.data.readers.mmc4:mmc4_entries",
        "flamingo.data.readers.mmc4:mmc4_page",
        files=("*shard_*.jsonl", "*shard_*.zip"),
        has_pages=True,
    ),
    "openflamingo_tar": ShardFormat(
        "OpenFlamingo's .tar shards of MMC4 or ChatGPT sequences, KEY.json with images in base64",
        "flamingo.data.readers.openflamingo_tar:openflamingo_entries",
        "flamingo.data.readers.openflamingo_tar:openflamingo_page",
        "flamingo.data.readers.tar_shards:tar_count",
        files=("*.tar",),
        has_pages=True,
    ),
    "obelics": ShardFormat(
        "OBELICS's and MINT-1T-HTML's .parquet shards, with the columns images and texts, also in the folder data/",
        "flamingo.data.readers.obelics:obelics_entries",
        "flamingo.data.readers.obelics:obelics_page",
        "flamingo.data.readers.obelics:obelics_count",
        files=("*.parquet", "data/*.parquet"),
        has_pages=True,
    ),
    "m4": ShardFormat(
        "M4's .tar shards of pages, ID.N.image.jpeg and ID.N.text.txt with ID.metadata.txt",
        "flamingo.data.readers.m4_tar:m4_entries",
        "flamingo.data.readers.m4_tar:m4_page",
        "flamingo.data.readers.tar_shards:tar_count",
        files=("*.tar",),
        has_pages=True,
    ),
    "m4_pairs": ShardFormat(
        "M4's .tar shards of captioned images, ID.image.jpeg with ID.text.txt",
        "flamingo.data.readers.m4_pairs:m4_pair_entries",
        "flamingo.data.readers.m4_pairs:m4_pair",
        "flamingo.data.readers.tar_shards:tar_count",
        files=("*.tar",),
    ),
    "mint1t": ShardFormat(
        "MINT-1T's .tar shards of PDF and ArXiv, KEY.json with KEY.tiff",
        "flamingo.data.readers.mint1t:mint1t_entries",
        "flamingo.data.readers.mint1t:mint1t_page",
        "flamingo.data.readers.tar_shards:tar_count",
        files=("*.tar", "*/*.tar"),
        has_pages=True,
    ),
    "page_rows": ShardFormat(
        'rows {"id": ID, "content": [{"type": "image", "image": PATH}, {"type": "text", "text": ...}]} in a .jsonl',
        "flamingo.data.readers.page_rows:page_row_entries",
        "flamingo.data.readers.page_rows:page_row",
        files=("*.jsonl",),
        has_pages=True,
    ),
    "html": ShardFormat(
        ".html files with local images, also in folders",
        "flamingo.data.readers.html_pages:single_entry",
        "flamingo.data.readers.html_pages:html_page",
        "flamingo.data.readers.html_pages:single_count",
        files=("**/*.html", "**/*.htm"),
        has_pages=True,
        one_sample=True,
    ),
    "markdown": ShardFormat(
        ".md files with local images, also in folders",
        "flamingo.data.readers.html_pages:single_entry",
        "flamingo.data.readers.markdown_pages:markdown_page",
        "flamingo.data.readers.html_pages:single_count",
        files=("**/*.md",),
        has_pages=True,
        one_sample=True,
    ),
}
