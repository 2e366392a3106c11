"""Trains a Flamingo: the connector, the gated blocks and the new tokens between two frozen backbones.

python -m experiments.train experiment=demo                     a few minutes on 2 cores
python -m experiments.train experiment=demo debug=quick         a few steps, as a check of the set-up
python -m experiments.train -m experiment=synthetic model.fusion.every=1,2,4 seed=0,1,2      a sweep of nine runs

Writes config.yaml, overrides.yaml, history.jsonl, state/ (to resume from) and at the end checkpoint/ into `output`.
Each run of a sweep has a folder below it. The key `evaluate` lists evaluations that follow the training.
"""

from dataclasses import dataclass, field

from experiments.cli.command import command
from experiments.schema import DataConfig, Entry, ModelConfig, WandbConfig, check_documents
from experiments.trackers import check_tracker
from flamingo.evaluation import ObjectiveConfig
from flamingo.inference import FeaturesConfig
from flamingo.model import BACKBONES
from flamingo.report import VariantConfig
from flamingo.training import ParallelConfig, TrainingConfig
from flamingo.training.optim import OptimizerConfig, check_warmup
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.device_names import DTYPES, INT8, check_device
from flamingo.utils.errors import UserError


@dataclass(kw_only=True)
class TrainConfig:
    """A training run."""

    #: The folder of the run.
    output: str
    #: Whether an earlier run in the folder is replaced.
    overwrite: bool = False
    #: Whether the command only checks everything and shows documents, memory and time.
    dry_run: bool = False
    #: The seed of all random numbers: weights, documents and their order.
    seed: int = 0
    #: Processes that make batches; 0: the training process makes them.
    num_workers: int = 0
    #: The device of the models: cpu, mps, cuda or cuda:NUMBER; null: the best one there is.
    device: str | None = None
    #: The dtype of the frozen backbones; auto: as they were saved.
    dtype: str = "auto"
    #: Whether the checkpoint contains the frozen backbones instead of their names.
    include_backbones: bool = False
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    #: Set by the group optimizer.
    optimizer: OptimizerConfig
    training: TrainingConfig
    #: How several processes share the model: parallel=ddp, fsdp2 or hsdp.
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    #: The program that shows scalars and sample answers: wandb, tensorboard or none.
    tracker: str = "wandb"
    wandb: WandbConfig = field(default_factory=WandbConfig)
    variant: VariantConfig = field(default_factory=VariantConfig)
    #: Evaluations of the trained run: a list of {kind: TASK, keys of experiments.evaluate}.
    evaluate: list[Entry] = field(default_factory=list)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    #: Keys with the value ${chosen:}; the command line itself sets this list.
    left_open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        seed("seed", self.seed)
        whole("num_workers", self.num_workers, least=0)
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)
        check_tracker("tracker", self.tracker)


def check_config(config: TrainConfig) -> None:
    """Checks values that depend on each other.

    Raises:
        UserError: With the key, for values that contradict each other.
    """
    check_warmup(config.optimizer, config.training.steps)
    changed = _changed_backbones(config.model)
    if config.dtype == INT8 and ("language_model" in changed or config.include_backbones):
        raise UserError(
            f"dtype={INT8} is for a frozen language model that the checkpoint names: include_backbones=false"
        )
    if changed and not config.include_backbones:
        names = " and ".join(changed)
        raise UserError(f"the {names} changes, so the checkpoint must contain it: set include_backbones=true")
    if config.features.folder and "vision_model" in config.model.trainable:
        raise UserError("features.folder needs a frozen encoder, but model.trainable has the vision_model")
    if config.features.folder and config.model.adapter and config.model.adapter.part == "vision_model":
        raise UserError("features.folder needs a frozen encoder, but model.adapter.part is vision_model")
    if config.features.folder and config.parallel.shard_vision_model:
        raise UserError("parallel.shard_vision_model=true needs an encoder that computes: set features.folder=null")
    check_documents(config.data, config.features.folder)


def _changed_backbones(config: ModelConfig) -> list[str]:
    changed = [str(part) for part in BACKBONES if part in config.trainable]
    if config.from_scratch and "language_model" not in changed:
        changed.append("language_model")
    return changed


main = command("train", TrainConfig, "experiments.runs.run_training:run_job", check_config, sweeps=True)

if __name__ == "__main__":
    main()
