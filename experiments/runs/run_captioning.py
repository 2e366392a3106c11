"""Captions a folder of images with a trained model: rows, images that are left out, and the contact sheet."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from experiments.caption import CaptionConfig
from experiments.cli.command import Job
from experiments.runs.thumbnails import thumbnail
from experiments.schema import as_recorded
from experiments.setup.build import load_model
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.data.image_files import ImageFiles, find_images
from flamingo.data.shortening import TooManyTokensError
from flamingo.data.sources import open_source
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.caption_files import caption_files, read_captions
from flamingo.inference.captioner import caption_prompt
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model.config import FlamingoConfig
from flamingo.model.sampling import Sampling
from flamingo.report.contact_sheet import Tile, write_contact_sheet
from flamingo.utils.checksums import sampled_checksum
from flamingo.utils.devices import processes, use_device
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.io import write_text
from flamingo.utils.memory import keep_memory, out_of_memory
from flamingo.utils.run_folder import RunFiles, model_contents, run_folder

log = logging.getLogger(__name__)

#: An image with its caption, which the prompt shows before each image.
Demonstration = tuple[Image, str]

#: The longer side of an image on the contact sheet, in pixels.
_THUMBNAIL = 320


@dataclass(frozen=True)
class Outputs:
    """The files that a captioning writes."""

    captions: Path

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.captions.with_suffix(".html")

    @property
    def skipped(self) -> Path:
        """The images without a caption, with reasons."""
        return self.captions.with_suffix(".skipped.json")

    def run_files(self) -> RunFiles:
        """Returns the files of the command, and the keys that may change."""
        return RunFiles(
            results=(self.captions.name, self.sheet.name, self.skipped.name),
            saved=(self.captions.name,),
            may_change=("checkpoint", "demonstrations", "batch_size", "sheet_images"),
            config_file=self.captions.with_suffix(".yaml").name,
        )


def run_captioning(config: CaptionConfig) -> Outputs:
    """Captions the images that have no caption yet.

    Returns:
        The paths of the files.

    Raises:
        UserError: For everything that a user can fix. Broken images are left out.
    """
    outputs = Outputs(Path(config.output))
    files = find_images(config.images)
    demonstrations = read_demonstrations(config.demonstrations)
    if files.others:
        log.info("%s: %d images; other files, by suffix: %s", config.images, len(files.names), files.others)
    checkpoint = checkpoint_of(config.checkpoint)
    use_device(config.device)
    with run_folder(outputs.captions.parent, as_recorded(config), outputs.run_files()) as run:
        model, processor = load_model(Path(checkpoint), config.dtype)
        captions = ImageCaptions(config, model, processor, demonstrations)
        captions.check()
        contents = {"checkpoint": model_contents(checkpoint)}
        if config.demonstrations is not None:
            contents["demonstrations"] = {"file": sampled_checksum(Path(config.demonstrations))}
        run.begin(contents)
        with out_of_memory("batch_size"):
            skipped = caption_files(files, outputs.captions, captions, config.batch_size, run.keep)
        if processes().is_main_process:
            write_text(outputs.skipped, json.dumps(skipped, indent=1, ensure_ascii=False) + "\n")
            _write_sheet(captions, files, outputs, skipped)
    return outputs


def checkpoint_of(name: str) -> str:
    """Returns the checkpoint in a run's folder, or the name itself: a checkpoint's folder or a name on the hub.

    Raises:
        UserError: If there is no checkpoint.
    """
    if (Path(name) / "checkpoint").is_dir():
        name = f"{name}/checkpoint"
    from_pretrained(FlamingoConfig, name, "checkpoint")
    return name


def read_demonstrations(file: str | None) -> list[Demonstration]:
    """Returns the images of a file of JSON lines with the first caption of each.

    Raises:
        UserError: For a file or an image that cannot be read.
    """
    if file is None:
        return []
    demonstrations = []
    for record in open_source(file, format="jsonl"):
        for frame in record.image.frames:
            open_image(frame)
        demonstrations.append((record.image, record.captions[0]))
    return demonstrations


class ImageCaptions:
    """Captions images by name, after the same demonstrations."""

    def __init__(
        self,
        config: CaptionConfig,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        demonstrations: Sequence[Demonstration],
    ) -> None:
        self.config, self.processor, self.demonstrations = config, processor, demonstrations
        self.engine = FlamingoEngine(model, processor, config.batch_size)
        self.sampling = None
        if config.temperature is not None:
            self.sampling = Sampling(config.temperature, config.top_p, config.seed)
        self.template = processor.template if config.template is None else CaptionTemplate(config.template)

    def check(self) -> None:
        """Checks that the demonstrations leave room for a caption. No image is opened.

        Raises:
            UserError: If they do not; the error says what to set.
        """
        prompt = caption_prompt(Image("image"), self.demonstrations, self.template, "of each image")
        room = self.processor.tokenizer.model_max_length - self.config.max_new_tokens
        try:
            self.processor.encode(prompt, prompt=True, pixels=False, max_length=room)
        except TooManyTokensError as error:
            fix = "set a smaller max_new_tokens"
            if self.demonstrations:
                fix += f", or fewer than {len(self.demonstrations)} demonstrations"
            raise UserError(f"max_new_tokens={self.config.max_new_tokens}: {error}; {fix}") from error

    def __call__(self, images: Mapping[str, Image]) -> list[str]:
        """Returns a caption for each image."""
        prompts = [caption_prompt(image, self.demonstrations, self.template, name) for name, image in images.items()]
        return self.engine.generate(
            prompts,
            self.config.max_new_tokens,
            self.config.beams,
            min_new_tokens=self.config.min_new_tokens,
            sampling=self.sampling,
        )

    def facts(self) -> list[str]:
        """Returns how the captions are made, as text for the contact sheet."""
        decoding = f"{self.config.beams} beams"
        if self.sampling is not None:
            decoding = f"temperature {self.config.temperature}, top-p {self.config.top_p}, seed {self.config.seed}"
        return [
            self.config.checkpoint,
            f"template “{self.template.text}”",
            f"demonstrations: {len(self.demonstrations)}",
            decoding,
        ]


def _write_sheet(captions: ImageCaptions, files: ImageFiles, outputs: Outputs, skipped: Mapping[str, str]) -> None:
    rows = read_captions(outputs.captions)
    demonstrations = []
    for image, caption in captions.demonstrations:
        name = Path(str(image.frames[0])).name
        demonstrations.append(Tile(name, caption, thumbnail(image, _THUMBNAIL)))
    facts = [f"captions: {len(rows):,}", f"left out: {len(skipped):,}"] + captions.facts()
    shown = list(islice(_tiles(files, rows), captions.config.sheet_images))
    write_contact_sheet(
        outputs.sheet,
        f"Captions of {files.folder.name or files.folder}",
        facts,
        shown,
        len(rows),
        demonstrations,
        skipped,
    )


def _tiles(files: ImageFiles, rows: Mapping[str, str]) -> Iterator[Tile]:
    """Yields the captioned images in the order of their names.

    Yields:
        Tiles. An image that was deleted since has no picture.
    """
    for name in sorted(rows):
        yield Tile(name, rows[name], thumbnail(Image(files.folder / name), _THUMBNAIL))


def run_job(job: Job[CaptionConfig]) -> None:
    """Runs the command, and logs the paths of the captions and the contact sheet."""
    keep_memory()
    outputs = run_captioning(job.load())
    for path in (outputs.captions, outputs.sheet):
        log.info("%s", path)
