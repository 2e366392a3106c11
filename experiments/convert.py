"""Converts checkpoints of other projects to ours, and ours to OpenFlamingo's.

python -m experiments.convert source=openflamingo checkpoint=checkpoint.pt language=NAME vision=NAME output=FOLDER
python -m experiments.convert source=flamingo_mini checkpoint=FOLDER language=NAME vision=NAME output=FOLDER
python -m experiments.convert source=idefics checkpoint=FOLDER output=FOLDER
python -m experiments.convert target=openflamingo checkpoint=FOLDER output=FOLDER
"""

from dataclasses import dataclass

from experiments.command import command
from flamingo.utils.device_names import check_device


@dataclass(kw_only=True)
class ConvertConfig:
    """A checkpoint, and two formats, one of which is ours."""

    #: openflamingo, idefics, flamingo_mini, or ours: flamingo.
    source: str = "flamingo"
    #: flamingo, or openflamingo.
    target: str = "flamingo"
    #: A file, or a folder that save_pretrained has left.
    checkpoint: str
    #: The backbones that the checkpoint was trained with: folders or names on the hub. A checkpoint of IDEFICS contains
    #: them; these keys then name a tokenizer and an image processor, if its folder has none.
    language: str | None = None
    vision: str | None = None
    #: A folder that does not exist yet.
    output: str
    #: Where a converted model is checked: cpu, mps, cuda or cuda:NUMBER; null: CUDA, else MPS, else the CPU.
    device: str | None = None

    def __post_init__(self) -> None:
        check_device("device", self.device)


main = command("convert", ConvertConfig, "experiments.run_conversion:run_job")

if __name__ == "__main__":
    main()
