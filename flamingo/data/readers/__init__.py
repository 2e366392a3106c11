"""One file per layout on disk: captioned images, and questions about images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flamingo.data.records.record import LazySequence


@dataclass(frozen=True)
class Location:
    """Where a data set lies."""

    #: The file of captions, the folder of its metadata, or all shards.
    files: tuple[Path, ...]
    #: The folder of the images; None: search around the file of captions.
    images: Path | None = None
    #: Whether only captions are needed. Images are then not searched, and need not exist.
    captions_only: bool = False
    #: Whether images whose files do not exist are left out and counted; else they are an error.
    skips_missing: bool = False
    #: Whether captions that the data mark as unusable are read, too: see :mod:`flamingo.data.readers.coco`.
    keeps_rejected: bool = False


#: Returns the records of a data set. Raises UserError with the file and value for a data set that cannot be read.
Reader = Callable[[Location], LazySequence]


@dataclass(frozen=True)
class Format:
    """A layout of captioned images, or of questions about images, on disk."""

    #: A description of its files, for errors that list all formats.
    looks: str
    #: "module:function" of the :data:`Reader`.
    reader: str
    #: Patterns of the names that its files may have in a folder; none: a folder is never read as the format.
    files: tuple[str, ...] = ()
    #: "module:function" that returns whether a :class:`flamingo.data.readers.candidate.Candidate` has this format. It
    #: is called for all files that may hold captions, also of other formats. None: the file's name decides.
    recognise: str | None = None
    #: Whether the files contain the images, or name the folder of the images.
    has_images: bool = False
    #: Whether a data set may be several files.
    sharded: bool = False
    #: Whether the reader gets the folder instead of the files.
    is_folder: bool = False
    #: Whether the records are questions, :class:`flamingo.data.records.question_record.QuestionRecord`.
    has_questions: bool = False
    #: Whether the records have captions, or answers where these are known.
    has_captions: bool = True


#: The formats by the names that ``data.format`` has for them.
READERS = {
    "coco": Format(
        "COCO's captions_*.json, NoCaps's nocaps_val_4500_captions.json, or the captions of VizWiz",
        "flamingo.data.readers.coco:coco",
        files=("*.json", "annotations/captions_*.json"),
        recognise="flamingo.data.readers.coco:is_coco",
    ),
    "karpathy": Format(
        "Karpathy's dataset_*.json",
        "flamingo.data.readers.karpathy:karpathy",
        files=("*.json",),
        recognise="flamingo.data.readers.karpathy:is_karpathy",
    ),
    "textcaps": Format(
        "TextCaps's TextCaps_0.1_*.json",
        "flamingo.data.readers.textcaps:textcaps",
        files=("*.json",),
        recognise="flamingo.data.readers.textcaps:is_textcaps",
    ),
    # Only a file that is named: it lies next to those with captions.
    "image_infos": Format(
        "images without captions: COCO's image_info_*.json, NoCaps's nocaps_test_image_info.json, TextCaps's "
        "TextCaps_0.1_test.json, VizWiz's test.json of captions",
        "flamingo.data.readers.image_infos:image_infos",
        recognise="flamingo.data.readers.image_infos:is_image_infos",
        has_captions=False,
    ),
    # Before flickr, which would open each text file to recognise it.
    "text_files": Format(
        "images in a folder, each with a text file of the same name: a.jpg and a.txt",
        "flamingo.data.readers.text_files:text_files",
        files=("*.txt", "*/*.txt"),
        recognise="flamingo.data.readers.text_files:is_text_file",
        has_images=True,
        is_folder=True,
    ),
    "flickr": Format(
        "Flickr8k's captions.txt or Flickr8k.token.txt, Flickr30k's captions.txt, results.csv or "
        "results_20130124.token",
        "flamingo.data.readers.flickr:flickr",
        files=("*.txt", "*.csv", "*.token", "Flickr8k_text/*.token.txt"),
        recognise="flamingo.data.readers.flickr:is_flickr",
    ),
    "jsonl": Format(
        'rows {"image": NAME, "captions": [...]} in a .jsonl',
        "flamingo.data.readers.jsonl:jsonl",
        files=("*.jsonl",),
        recognise="flamingo.data.readers.jsonl:is_jsonl",
    ),
    "image_folder": Format(
        "a folder with metadata.jsonl or metadata.csv, file_name and text in each row",
        "flamingo.data.readers.image_folder:image_folder",
        files=("metadata.jsonl", "metadata.csv", "*/metadata.jsonl", "*/metadata.csv"),
        has_images=True,
        is_folder=True,
    ),
    "tar": Format(
        "WebDataset's .tar shards, KEY.jpg with KEY.json or KEY.txt, also in the folder data/",
        "flamingo.data.readers.tar_shards:tar",
        # The reader refuses compressed ones.
        files=("*.tar", "data/*.tar", "*.tgz", "*.tar.gz", "*.tar.bz2", "*.tar.xz", "*.tar.zst"),
        has_images=True,
        sharded=True,
    ),
    "parquet": Format(
        ".parquet shards with the columns image (img2dataset: jpg) and captions, caption or text, also in data/",
        "flamingo.data.readers.parquet_shards:parquet",
        files=("*.parquet", "data/*.parquet"),
        has_images=True,
        sharded=True,
    ),
    # Parquet files only by format=caption_table.
    "caption_table": Format(
        "tables of captions and paths of images: CC3M's and CC12M's .tsv, LAION's and COYO's .parquet",
        "flamingo.data.readers.caption_table:caption_table",
        files=("*.tsv",),
        recognise="flamingo.data.readers.caption_table:is_caption_table",
        sharded=True,
    ),
    "saved_dataset": Format(
        "a folder that the library datasets saved by save_to_disk, with state.json or dataset_dict.json",
        "flamingo.data.readers.saved_dataset:saved_dataset",
        files=("state.json", "dataset_dict.json"),
        recognise="flamingo.data.readers.saved_dataset:is_saved_dataset",
        has_images=True,
        is_folder=True,
    ),
    # Any folder with images in folders looks like this: it is read only by its name.
    "class_folders": Format(
        "a folder for each class, with its images, CLASS/NAME.jpg; only by format=class_folders",
        "flamingo.data.readers.class_folders:class_folders",
        has_images=True,
        is_folder=True,
    ),
    "vqa": Format(
        "VQAv2's and OK-VQA's *_questions.json, with *_annotations.json in the same folder; also OpenFlamingo's files",
        "flamingo.data.readers.vqa:vqa",
        files=("*questions*.json", "*questions*.json.gz", "annotations/*questions*.json"),
        recognise="flamingo.data.readers.vqa:is_vqa",
        has_questions=True,
    ),
    "textvqa": Format(
        "TextVQA's TextVQA_0.5.1_*.json",
        "flamingo.data.readers.textvqa:textvqa",
        files=("*.json",),
        recognise="flamingo.data.readers.textvqa:is_textvqa",
        has_questions=True,
    ),
    "vizwiz": Format(
        "VizWiz's train.json, val.json and test.json",
        "flamingo.data.readers.vizwiz:vizwiz",
        # Only these names below the folder: COCO's annotations may be gigabytes of other JSON.
        files=("*.json", "[aA]nnotations/train.json", "[aA]nnotations/val.json", "[aA]nnotations/test.json"),
        recognise="flamingo.data.readers.vizwiz:is_vizwiz",
        has_questions=True,
    ),
    "questions": Format(
        'rows {"image": NAME, "question": "...", "answers": [...]} in a .jsonl',
        "flamingo.data.readers.question_rows:question_rows",
        files=("*.jsonl",),
        recognise="flamingo.data.readers.question_rows:is_question_rows",
        has_questions=True,
    ),
    "hateful_memes": Format(
        'HatefulMemes\' rows {"id": ID, "img": NAME, "label": 0 or 1, "text": "..."} in a .jsonl',
        "flamingo.data.readers.hateful_memes:hateful_memes",
        files=("*.jsonl",),
        recognise="flamingo.data.readers.hateful_memes:is_hateful_memes",
        has_questions=True,
    ),
    # JSON lines in a file that is named .json: other readers cannot open it to see what it is.
    "nlvr2": Format(
        "NLVR2's train.json, dev.json and the like, whose lines are statements about two images; only by format=nlvr2",
        "flamingo.data.readers.nlvr2:nlvr2",
        has_questions=True,
    ),
    "visdial": Format(
        "VisDial's visdial_1.0_*.json, with visdial_1.0_*_dense_annotations.json in the same folder",
        "flamingo.data.readers.visdial:visdial",
        files=("*.json",),
        recognise="flamingo.data.readers.visdial:is_visdial",
        has_questions=True,
    ),
    "winoground": Format(
        "Winoground's examples.jsonl, rows of two images and their two captions",
        "flamingo.data.readers.winoground:winoground",
        files=("*.jsonl",),
        recognise="flamingo.data.readers.winoground:is_winoground",
    ),
}
