"""Converts checkpoints of other projects to ours, and ours to OpenFlamingo's.

python -m experiments.convert source=openflamingo checkpoint=checkpoint.pt language=NAME vision=NAME output=FOLDER
python -m experiments.convert source=flamingo_mini checkpoint=FOLDER language=NAME vision=NAME output=FOLDER
python -m experiments.convert source=idefics checkpoint=FOLDER output=FOLDER
python -m experiments.convert target=openflamingo checkpoint=FOLDER output=FOLDER
"""

from dataclasses import dataclass

from experiments.cli.command import command
from flamingo.utils.device_names import check_device


@dataclass(kw_only=True)
class ConvertConfig:
    """A checkpoint, and two formats, one of which is ours."""

    #: The format of the checkpoint: openflamingo, flamingo_mini, idefics or ours, flamingo.
    source: str = "flamingo"
    #: The format of the result: flamingo or openflamingo.
    target: str = "flamingo"
    #: The checkpoint: a file, or a folder of save_pretrained.
    checkpoint: str
    #: The language model that the checkpoint was trained with: a folder or a hub name. A checkpoint of IDEFICS contains
    #: its backbones; the key then names a tokenizer, if its folder has none.
    language: str | None = None
    #: The vision encoder that the checkpoint was trained with: a folder or a hub name. A checkpoint of IDEFICS contains
    #: its backbones; the key then names an image processor, if its folder has none.
    vision: str | None = None
    #: The folder of the result, which must not exist.
    output: str
    #: The device of the check: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None

    def __post_init__(self) -> None:
        check_device("device", self.device)


main = command("convert", ConvertConfig, "experiments.runs.run_conversion:run_job")

if __name__ == "__main__":
    main()
