"""Classifies images by a dual encoder, as CLIP does without examples: top-1 and top-5 accuracy.

python -m experiments.zero_shot query=DIR format=class_folders encoder=ENCODER output=outputs/zero_shot
python -m experiments.zero_shot query=DIR format=class_folders encoder=ENCODER template_file=FILE output=...

Leaves zero_shot.json and class_probabilities.jsonl.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.cli.command import command
from flamingo.data.source_config import SourceConfig
from flamingo.utils.checks import whole
from flamingo.utils.device_names import check_device
from flamingo.utils.errors import UserError
from flamingo.utils.reading import lines

#: Templates without a file.
TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a close-up of a {}.")


@dataclass(kw_only=True)
class ZeroShotConfig(SourceConfig):
    """The labelled images, the classes, and the prompts of each class."""

    #: Labelled images, whose captions are their labels: a folder, a file or shards.
    query: str
    #: The split of the images; null: all of them.
    split: str | None = None
    #: The number of images, the first ones; null: all.
    limit: int | None = None
    #: The dual encoder: a folder or a name on the hub.
    encoder: str
    #: The JSON file of class names, label -> name; null: the labels are the names.
    class_names: str | None = None
    #: The names of the classes; null: those of all images and of class_names.
    classes: list[str] | None = None
    #: Texts with {} in place of the name. The vectors of their prompts are averaged for each class.
    templates: list[str] = field(default_factory=lambda: list(TEMPLATES))
    #: A file with a template in each line, in place of templates; null: none.
    template_file: str | None = None
    #: The number of images or prompts in a batch.
    batch_size: int = 64
    #: The folder of the results.
    output: str
    #: Whether results in the folder are removed first.
    overwrite: bool = False
    #: The device of the model: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None:
            whole("limit", self.limit, least=1)
        whole("batch_size", self.batch_size, least=1)
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise UserError(f"classes needs two different names at least, and none twice: {self.classes}")
        _check_templates("templates", self.templates)
        check_device("device", self.device)


def templates_of(config: ZeroShotConfig) -> list[str]:
    """Returns the templates of the file, or else those of the config.

    Raises:
        UserError: For a file that cannot be read, and a line that is no template.
    """
    if config.template_file is None:
        return config.templates
    templates = [line.strip() for _, line in lines(Path(config.template_file))]
    _check_templates(f"template_file={config.template_file}", templates)
    return templates


def _check_templates(key: str, templates: list[str]) -> None:
    if not templates:
        raise UserError(f"{key} has no template")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"{key}: a template has one {{}}, the place of the name, and {template!r} has not")


main = command("zero_shot", ZeroShotConfig, "experiments.runs.run_zero_shot:run_job")

if __name__ == "__main__":
    main()
