"""A training run: checks, training, the evaluations that follow, and their objective."""

import json
import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import yaml
from accelerate import PartialState

from experiments.cli.command import Job
from experiments.runs import run_evaluation
from experiments.schema import JSON, DataConfig, as_recorded
from experiments.setup.build import TrainingParts, add_features, backbone_names, build_features
from experiments.setup.build_data import build_data_sets, images_of
from experiments.setup.build_monitoring import build_monitoring
from experiments.setup.dry_run import show_dry_run
from experiments.setup.init_from_parts import checkpoint_folder
from experiments.setup.longer_training import keep_finished
from experiments.setup.preparation import FILES, prepare
from experiments.setup.streamed_data import streamed_contents
from experiments.setup.training_callbacks import training_callbacks
from experiments.train import TrainConfig
from flamingo.data.data_checksums import data_checksums
from flamingo.data.source_keys import DATA_KEYS
from flamingo.data.sources import list_split
from flamingo.evaluation.search_objective import objective
from flamingo.inference.features import FeatureStore
from flamingo.model.packed_attention import check_kernel, prepared_masks
from flamingo.training.export import checkpoint_state
from flamingo.training.loop import train
from flamingo.utils.checksums import digest_of
from flamingo.utils.devices import use_device
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.memory import keep_memory, out_of_memory
from flamingo.utils.run_folder import Run, failure_recorded, model_contents, run_folder

log = logging.getLogger(__name__)


def run_training(config: TrainConfig, output: Path, overrides: Sequence[str] = ()) -> float:
    """Trains, and evaluates the result.

    A run that was stopped resumes. Everything is checked before anything is removed or computed.

    Args:
        config: The run.
        output: Its folder.
        overrides: The overrides of the command line or of a sweep, which are recorded.

    Returns:
        The objective. NaN for a dry run, which has no folder and no objective.

    Raises:
        UserError: For everything that a user can fix.
    """
    # RMSNorm of torch says so of autocast on a CPU, where the weights stay in fp32.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    device = use_device(config.device)
    check_kernel(config.training.packed_attention, device)
    if config.dry_run:
        show_dry_run(prepare(config, Run(output, as_recorded(config), FILES)), output)
        return math.nan
    with run_folder(output, as_recorded(config), FILES, check=False) as run, failure_recorded(run):
        prepared = prepare(config, run)
        config = prepared.config
        if prepared.parts is None:
            check_data(config.data, run)
            log.info("%s is already trained; overwrite=true trains it again", output)
        else:
            train_model(prepared.parts, config, run, overrides, prepared.longer)
        for plan in prepared.plans:
            run_evaluation.carry_out(plan)
        return objective(output, config.objective)


def check_data(config: DataConfig, run: Run) -> None:
    """Checks that captioned images are those that a run was trained on. No image is opened, and no model is loaded.

    Raises:
        UserError: With the differences, if they are not.
    """
    if config.streamed():
        run.check_contents({"streams": streamed_contents(config)})
    if config.of_records():
        assert config.root is not None
        listed = list_split(config.root, config, config.split, DATA_KEYS, config.of_questions)
        run.check_contents({"data": data_checksums(listed)})


def contents(parts: TrainingParts, config: TrainConfig) -> JSON:
    """Returns checksums of everything that the config only names."""
    checksums: JSON = {key: model_contents(name) for key, name in backbone_names(config.model).items()}
    if config.model.init_from is not None:
        checksums["init_from"] = model_contents(checkpoint_folder(config.model.init_from))
    if config.data.streamed():
        checksums["streams"] = streamed_contents(config.data)
    if parts.records is not None:
        if config.features.folder is not None:  # the location of the folder changes no result
            checksums["features"] = str(parts.model.vision_model.dtype)
        checksums["data"] = data_checksums(parts.records.training.listed)
        checksums["images"] = digest_of(record.id for record in parts.records.training.records)
    return checksums


def train_model(
    parts: TrainingParts, config: TrainConfig, run: Run, overrides: Sequence[str], longer: bool = False
) -> None:
    """Trains the parts, and saves the checkpoint.

    Args:
        parts: The parts.
        config: The training.
        run: Its folder.
        overrides: The overrides to record.
        longer: Whether the folder has a finished run of fewer steps.
    """
    checksums = contents(parts, config)
    main_process = PartialState().is_main_process
    if longer:
        run.check_contents(checksums)
        if main_process:
            keep_finished(run)
        PartialState().wait_for_everyone()
    run.begin(checksums)
    if main_process:
        write_text(run.output / "overrides.yaml", yaml.safe_dump(list(overrides)))
    model, processor = parts.model, parts.processor
    counts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in model.parameter_counts().items())
    log.info("parameters: %s", counts)
    features = _compute_features(parts, config, run.output)
    data_sets = build_data_sets(
        config.data,
        parts.records,
        processor,
        features,
        config.training.seed,
        config.num_workers,
        model.new_tokens.known_ids,
    )
    monitoring = build_monitoring(parts, config, features)
    keys = [f"data.documents.{name}.batch_size" for name in config.data.documents]
    masks = prepared_masks(model, config.training.packed_attention)
    with masks, training_callbacks(parts, config, run.output, run.keep) as callbacks, out_of_memory(*keys):
        train(
            model,
            data_sets,
            config.optimizer,
            config.training,
            run.output,
            callbacks,
            config.parallel,
            monitoring,
        )
    state = checkpoint_state(model, config.include_backbones)
    if main_process:
        with atomic_folder(run.output / "checkpoint") as folder:
            model.save_pretrained(folder, include_backbones=config.include_backbones, state_dict=state)
            processor.save_pretrained(folder)
        log.info("trained: %s", run.output / "checkpoint")


def _compute_features(parts: TrainingParts, config: TrainConfig, output: Path) -> FeatureStore | None:
    """Returns the features of all images; None if they are not kept."""
    if parts.records is None:
        return None
    if PartialState().is_main_process:
        skipped = parts.records.training.skipped | parts.records.samples.skipped
        write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
    features = build_features(config.features, parts.model, parts.processor)
    if features is not None:
        keep_memory()
        add_features(features, images_of(config.data, parts.records))
    return features


def run_job(job: Job[TrainConfig]) -> float:
    """Runs the command.

    Returns:
        The objective.
    """
    # The folder of a dry run is the current one: see experiments/cli/hydra_config.py.
    has_folder = job.output != Path.cwd()
    with failure_recorded(Run(job.output, {}, FILES)) if has_folder else nullcontext():
        config = job.load()
    return run_training(config, job.output if has_folder else Path(config.output), job.overrides)
