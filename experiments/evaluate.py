"""Evaluates a model few-shot: shots, seeds, controls -> predictions.jsonl and scores.json.

python -m experiments.evaluate run=outputs/demo
python -m experiments.evaluate run=outputs/demo task=synthetic_questions shots=[0,4] num_beams=[1,3] seeds=[0,1,2]
python -m experiments.evaluate run=outputs/own task=flickr8k task.support='DIR/train-*.tar' task.query='DIR/dev-*.tar'
python -m experiments.evaluate run=outputs/own task=captions task.name=holidays task.query=DIR      no demonstrations

Several tasks may be evaluated into the same folder; one that was stopped goes on, and settings are
added without repeating those that are done.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.cli.command import command
from experiments.setup.run_checkpoint import check_checkpoint, check_run
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.tasks import TaskConfig
from flamingo.inference import FeaturesConfig
from flamingo.utils.checks import one_of
from flamingo.utils.device_names import DTYPES, check_device
from flamingo.utils.errors import UserError


@dataclass(kw_only=True)
class EvaluateConfig(EvaluationConfig):
    """What is evaluated, and in which settings: all of them with each seed and each number of beams."""

    #: The folder of a training: its checkpoint is evaluated, and the results go there.
    run: str | None = None
    #: The checkpoint, if it is another one than that of the run.
    checkpoint: str | None = None
    #: The folder of the results, if it is another one than that of the run.
    output: str | None = None
    #: Whether the results of all tasks in the folder are removed first.
    overwrite: bool = False
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The dtype of the frozen backbones; auto: as the model was trained.
    dtype: str = "auto"
    #: What the model is asked, by task=NAME; with run=FOLDER, what it was trained on (setup/default_task.py).
    task: TaskConfig
    #: Of the images of records, in the folder where results go unless it says otherwise.
    features: FeaturesConfig = field(default_factory=lambda: FeaturesConfig(folder="features"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)


def folders(config: EvaluateConfig) -> tuple[Path, Path]:
    """Returns the folders of the checkpoint and of the results.

    Raises:
        UserError: For a config that does not name them.
    """
    if config.run is not None:
        return Path(config.checkpoint or f"{config.run}/checkpoint"), Path(config.output or config.run)
    if config.checkpoint is None or config.output is None:
        raise UserError("what is to be evaluated? Say run=FOLDER, or checkpoint=FOLDER and output=FOLDER")
    return Path(config.checkpoint), Path(config.output)


def check_config(config: EvaluateConfig) -> None:
    """Raise UserError, naming the key, for a config whose run or checkpoint is not there."""
    checkpoint, _ = folders(config)
    if config.checkpoint is not None:
        check_checkpoint(checkpoint)
    elif config.run is not None:
        check_run(config.run)


main = command("evaluate", EvaluateConfig, "experiments.runs.run_evaluation:run_job", check_config)

if __name__ == "__main__":
    main()
