"""Evaluates a model few-shot: shots, seeds, controls -> predictions.jsonl and scores.json.

python -m experiments.evaluate run=outputs/demo
python -m experiments.evaluate runs='outputs/mine/*' shots=[0,4]                               each run of a sweep
python -m experiments.evaluate run=outputs/demo task=synthetic_questions shots=[0,4] num_beams=[1,3] seeds=[0,1,2]
python -m experiments.evaluate run=outputs/own task=flickr8k task.support='DIR/train-*.tar' task.query='DIR/dev-*.tar'
python -m experiments.evaluate run=outputs/own task=captions task.name=holidays task.query=DIR      no demonstrations

Several tasks may share a folder. The same command resumes an evaluation that was stopped. New settings are added
without repeating finished ones.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.cli.command import command
from experiments.schema import Entry
from experiments.setup.run_checkpoint import check_checkpoint, check_run
from experiments.setup.run_lists import run_folders
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.tasks import TaskConfig
from flamingo.inference import FeaturesConfig
from flamingo.utils.checks import one_of, whole
from flamingo.utils.device_names import DTYPES, check_device
from flamingo.utils.errors import UserError

#: Names of transformers.
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(kw_only=True)
class EvaluateConfig(EvaluationConfig):
    """What is evaluated, and in which settings: all of them with each seed and each number of beams."""

    #: The folder of a training: its checkpoint is evaluated, and the results go there.
    run: str | None = None
    #: Several runs, each evaluated like `run`: a pattern in quotes, or a list of folders.
    runs: Entry = None
    #: The checkpoint; null: the one of the run.
    checkpoint: str | None = None
    #: The folder of the results; null: the one of the run.
    output: str | None = None
    #: Whether the results of all tasks in the folder are removed first.
    overwrite: bool = False
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The dtype of the frozen backbones; auto: as the model was trained.
    dtype: str = "auto"
    #: The number of processes that share the layers of the language model; null: 1.
    shard_size: int | None = None
    #: The language model over several GPUs: auto, balanced, sequential; null: one device.
    #: The GPUs are those of one process.
    device_map: str | None = None
    #: What the model is asked, by task=NAME; with run=FOLDER, by default what it was trained on.
    task: TaskConfig
    #: Another project's evaluation, by protocol=NAME: values of keys for kinds of tasks.
    protocol: dict[str, Entry] = field(default_factory=dict)
    #: Kept features of captioned images; a relative folder lies in the folder of the results.
    features: FeaturesConfig = field(default_factory=lambda: FeaturesConfig(folder="features"))

    #: The dual encoder of RICES by texts: a folder or a hub name; null: none. Questions are then compared by TF-IDF.
    rices_encoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)
        if self.shard_size is not None:
            whole("shard_size", self.shard_size, least=2)
        if self.device_map is not None:
            one_of("device_map", self.device_map, DEVICE_MAPS)
            if self.shard_size is not None:
                raise UserError("device_map is for one process, and shard_size for several: set one of them")


def folders(config: EvaluateConfig) -> tuple[Path, Path]:
    """Returns the folders of the checkpoint and of the results.

    Raises:
        UserError: For a config that does not name them.
    """
    if config.run is not None:
        return Path(config.checkpoint or f"{config.run}/checkpoint"), Path(config.output or config.run)
    if config.checkpoint is None or config.output is None:
        raise UserError("the config names no model: set run=FOLDER, or checkpoint=FOLDER and output=FOLDER")
    return Path(config.checkpoint), Path(config.output)


def check_config(config: EvaluateConfig) -> None:
    """Checks that the runs and the checkpoint exist.

    Raises:
        UserError: With the key of the one that does not, and for keys that contradict ``runs``.
    """
    if config.runs is not None:
        _check_runs(config)
        return
    checkpoint, _ = folders(config)
    if config.checkpoint is not None:
        check_checkpoint(checkpoint)
    elif config.run is not None:
        check_run(config.run)


def _check_runs(config: EvaluateConfig) -> None:
    for key in ("run", "checkpoint", "output"):
        if getattr(config, key) is not None:
            raise UserError(f"{key} cannot be set with runs: the results of each run go into its folder")
    run_folders(config.runs)


main = command("evaluate", EvaluateConfig, "experiments.runs.run_evaluation:run_job", check_config)

if __name__ == "__main__":
    main()
