"""Measures how much attention of words falls inside the objects that they name.

python -m experiments.word_attention run=outputs/synthetic

Writes attention.json, attention.png (its plot) and attention_words.png (an example) into the run's folder.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from experiments.setup.run_checkpoint import check_run
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.device_names import DTYPES, check_device
from flamingo.utils.errors import UserError


@dataclass
class WordAttentionConfig:
    """The run and the scenes to inspect it on."""

    #: The folder of the run.
    run: str | None = None
    #: The number of scenes with two objects, and of scenes with one.
    scenes: int = 200
    #: The seed of the scenes.
    seed: int = 0
    #: The number of scenes in a batch.
    batch_size: int = 50
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The dtype of the frozen backbones; auto: as the model was trained.
    dtype: str = "auto"

    def __post_init__(self) -> None:
        whole("scenes", self.scenes, least=1)
        seed("seed", self.seed)
        whole("batch_size", self.batch_size, least=1)
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)


def check_config(config: WordAttentionConfig) -> None:
    """Checks that the run has a checkpoint.

    Raises:
        UserError: For a config that names no such run.
    """
    if config.run is None:
        raise UserError("the config needs run=FOLDER, the run to inspect")
    check_run(config.run)


main = command("word_attention", WordAttentionConfig, "experiments.runs.run_word_attention:run_job", check_config)

if __name__ == "__main__":
    main()
