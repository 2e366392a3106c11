"""Captions a folder of images: a JSON line for each image, and a contact sheet.

python -m experiments.caption checkpoint=outputs/demo images=DIR output=captions.jsonl
python -m experiments.caption checkpoint=outputs/demo images=DIR output=captions.jsonl demonstrations=FILE.jsonl
python -m experiments.caption checkpoint=outputs/demo images='DIR/*.jpg' output=captions.jsonl temperature=0.8 top_p=0.9

Leaves captions.jsonl, captions.html, captions.skipped.json (why images have no caption) and captions.yaml (the config).
Started again, it captions the images that have no caption yet.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

from experiments.cli.command import command
from experiments.setup.run_checkpoint import check_checkpoint, check_run
from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation import check_decoding
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.device_names import DTYPES, check_device
from flamingo.utils.errors import UserError
from flamingo.utils.problems import Problems

#: The beams of a search that a config leaves open.
_NUM_BEAMS = 3


@dataclass(kw_only=True)
class CaptionConfig:
    """Which images are captioned, by which model, and how."""

    #: The folder of a run or of a checkpoint, or a name on the hub.
    checkpoint: str
    #: The images: a folder with all below it, a file, or a pattern in quotes.
    images: str
    #: The file of captions, JSON lines. The contact sheet and other files go into the same folder.
    output: str
    #: JSON lines with `image` and `caption`. The model sees them before each image, in this order.
    demonstrations: str | None = None
    #: The text after each image, which ends with {caption}; null: the checkpoint's.
    template: str | None = None
    #: Beams of the search; null: 3, and 1 if tokens are sampled.
    num_beams: int | None = None
    #: The temperature of sampled tokens; null: the likeliest captions are searched.
    temperature: float | None = None
    #: Tokens are sampled from the likeliest ones that have this probability together.
    top_p: float = 1.0
    #: The seed of sampled tokens.
    seed: int = 0
    #: The most tokens of a caption.
    max_new_tokens: int = 30
    #: The fewest tokens of a caption.
    min_new_tokens: int = 0
    #: The number of images in a batch.
    batch_size: int = 16
    #: The number of images on the contact sheet.
    sheet_images: int = 200
    #: Whether earlier captions are removed first.
    overwrite: bool = False
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The dtype of the frozen backbones; auto: as the model was trained.
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.template is not None:
            CaptionTemplate(self.template)
        if self.num_beams is not None:
            whole("num_beams", self.num_beams, least=1)
        check_decoding([self.beams], self.temperature, self.top_p, self.max_new_tokens, self.min_new_tokens)
        seed("seed", self.seed)
        whole("batch_size", self.batch_size, least=1)
        whole("sheet_images", self.sheet_images, least=0)
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)
        if not self.output.endswith(".jsonl"):
            raise UserError(f"output must be a file that ends in .jsonl, got {self.output!r}")

    @property
    def beams(self) -> int:
        """The number of beams."""
        if self.num_beams is not None:
            return self.num_beams
        return 1 if self.temperature is not None else _NUM_BEAMS


def check_config(config: CaptionConfig) -> None:
    """Checks that the files of the config exist. Images are not listed, and the hub is not asked.

    Raises:
        UserError: With all keys whose files do not exist.
    """
    problems = Problems()
    with problems.collected():
        _check_checkpoint(config.checkpoint)
    for key, value in (("images", config.images), ("demonstrations", config.demonstrations)):
        with problems.collected():
            if value is not None and not (Path(value).exists() or glob.has_magic(value)):
                raise UserError(f"{key}={value}: there is no such file or folder")
    problems.report()


def _check_checkpoint(name: str) -> None:
    """Checks a checkpoint. A name with one slash that is no folder may be a name on the hub, and is not checked.

    Raises:
        UserError: For a folder without a checkpoint.
    """
    if any((Path(name) / part).is_dir() for part in ("checkpoint", "state")):
        check_run(name, "checkpoint")
    elif Path(name).exists() or Path(name).is_absolute() or name.count("/") != 1:
        check_checkpoint(Path(name))


main = command("caption", CaptionConfig, "experiments.runs.run_captioning:run_job", check_config)

if __name__ == "__main__":
    main()
