"""An evaluation in three stages: checks before the model is loaded, features, and scores."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import PartialState

from experiments.cli.command import Job
from experiments.evaluate import EvaluateConfig, check_config, folders
from experiments.schema import JSON, Entry, as_recorded
from experiments.setup.build import add_features, build_features
from experiments.setup.evaluated_model import evaluated_model
from experiments.setup.evaluation_plan import Plan, plan
from experiments.setup.other_supports import keep_other_supports, other_support_records
from experiments.setup.rices import RICES_CONTENTS, index_texts, record_rices
from experiments.setup.run_lists import run_folders
from experiments.setup.trained_images import trained_queries_warning, trained_records
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.data_checksums import data_checksums, files_checksum
from flamingo.data.records.record import Record
from flamingo.difference_rows import read_differences
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.prompt_lengths import Check, check_prompts, check_retrieved_prompts
from flamingo.evaluation.protocol import FilesTask, RecordTask, RowScoredTask, Task
from flamingo.inference import FeaturesConfig
from flamingo.inference.features import FeatureStore
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model import BACKBONES
from flamingo.model.config import FlamingoConfig
from flamingo.model.fingerprints import fingerprint
from flamingo.report.difference_table import difference_table, note, table_title
from flamingo.report.score_table import score_table
from flamingo.results import Row, score_of
from flamingo.utils.checks import within
from flamingo.utils.checksums import folder_checksums
from flamingo.utils.devices import processes, use_device
from flamingo.utils.differences import differences
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.memory import keep_memory, out_of_memory
from flamingo.utils.names import file_name
from flamingo.utils.problems import Problems
from flamingo.utils.reading import read_config
from flamingo.utils.run_folder import Run, RunFiles, model_contents, run_folder

log = logging.getLogger(__name__)


#: Keys that may change between evaluations into the same folder. The harness knows which settings are finished, and
#: checksums of the checkpoint and the data show whether these are the same.
_SETTINGS = (
    *("shots", "text_only", "controls", "control_shots", "num_beams", "temperature", "top_p", "template", "seeds"),
    *("batch_size", "pictures", "attention_queries", "shard_size", "device_map"),
)
#: Other metrics and another language score existing predictions again.
_MAY_CHANGE = (
    *_SETTINGS,
    *("run", "runs", "checkpoint", "demonstrations", "features", "rices_encoder", RICES_CONTENTS),
    *("task.metrics", "task.language", "task.clip_score", "task.chair"),
)
#: Supports may be added. Those of earlier evaluations in the folder must stay the same.
_OTHER_SUPPORTS = ("task.other_supports", "contents.other_supports")


def _in_file_names(task: Task) -> str:
    """Returns the task's name for file names.

    Two tasks that share one, such as a/b and a-b, are refused later: their configs differ.
    """
    return file_name(task.name.replace("/", "-"))


def _run_files(task: Task) -> RunFiles:
    return RunFiles(
        results=("predictions.jsonl", "scores.json", "differences.json", "in_context.json", "pictures"),
        saved=("predictions.jsonl", "scores.json"),
        descriptions=("evaluate-*.yaml", "images-*.json", "submission-*.json"),
        may_change=_MAY_CHANGE + _OTHER_SUPPORTS,
        config_file=f"evaluate-{_in_file_names(task)}.yaml",
    )


def compose_evaluation(entry: Mapping[str, Entry], run: Path, device: str | None = None) -> EvaluateConfig:
    """Returns the config of an evaluation that follows a training.

    Args:
        entry: ``kind``, the name of an option of conf/task, and keys of the evaluation's config.
        run: The folder of the training.
        device: The key ``device`` of the training.

    Raises:
        UserError: For an entry without ``kind``, and for a wrong value.
    """
    keys = dict(entry)
    if "kind" not in keys:
        raise UserError(f"evaluate: an entry needs kind, the name of a task of conf/task; got {keys}")
    # Hydra is imported here: without entries in `evaluate` a program may use this module without it.
    from experiments.cli.hydra_config import compose_config, load

    task = keys.pop("kind")
    config = compose_config("evaluate", [f"task={task}"], {"device": device} | keys | {"run": str(run)})
    with within("evaluate"):
        return load(config)


def check_same_checkpoint(output: Path, checkpoint: dict[str, str]) -> None:
    """Checks that earlier evaluations in the folder, of any task, are of the same checkpoint.

    Raises:
        UserError: If they are of another one.
    """
    for file in sorted(output.glob("evaluate-*.yaml")):
        earlier = read_config(file).get("contents") or {}
        if different := differences({"checkpoint": earlier.get("checkpoint")}, {"checkpoint": checkpoint}):
            raise UserError(
                f"{output} holds scores of another checkpoint, as in {file.name} ({'; '.join(different)}): choose "
                "another output=..., or overwrite it with overwrite=true"
            )


def contents(checkpoint: Path, model: FlamingoForConditionalGeneration, task: Task) -> JSON:
    """Returns checksums of everything that the config only names: weights, their config, the processor and the data.

    They do not depend on the location of the files.
    """
    checksums: JSON = {"checkpoint": folder_checksums(checkpoint, whole_weights=True)}
    if not FlamingoConfig.from_pretrained(checkpoint).backbones_included:
        checksums |= {part: model_contents(getattr(model, part).name_or_path) for part in BACKBONES}
    if isinstance(task, RecordTask):
        checksums |= {"query": data_checksums(task.query_records), "support": data_checksums(task.support_records)}
        for name, records in other_support_records(task).items():
            checksums.setdefault("other_supports", {})[name] = data_checksums(records)
    elif isinstance(task, FilesTask):
        checksums["files"] = files_checksum(map(str, task.files))
    return checksums


def _features_in(output: Path, features: FeaturesConfig) -> FeaturesConfig:
    """Returns the features with a folder relative to the folder of results."""
    if features.folder is None:
        return features
    return replace(features, folder=str(output / features.folder))


def check_outputs(plans: Sequence[Plan], trained: Path) -> None:
    """Checks that no evaluation will be refused when its folder is reached.

    Args:
        plans: The evaluations that follow a training.
        trained: The folder of the training, which has no results yet.

    Raises:
        UserError: For an evaluation that would be refused.
    """
    first: dict[tuple[Path, str], JSON] = {}
    for planned in plans:
        files = _run_files(planned.task)
        _, output = folders(planned.config)
        values = as_recorded(planned.config)
        earlier = first.setdefault((output, files.config_file), values)
        if different := differences(earlier, values, ("output", "overwrite", "device") + files.may_change):
            raise UserError(
                f"`evaluate` has {planned.task.name} twice for {output}, with different configs "
                f"({'; '.join(different)}): choose another output=... for one of them"
            )
        if output != trained:
            Run(output, values, files).check()


def with_usable_support(planned: Plan, processor: FlamingoProcessor) -> Plan:
    """Returns the plan without support records that are too long for every prompt."""
    if not isinstance(planned.task, RecordTask):
        return planned
    usable = planned.task.fitting(processor, planned.template(processor), planned.max_new_tokens)
    return replace(planned, task=usable)


def check_lengths(planned: Plan, processor: FlamingoProcessor, retrieved: bool) -> None:
    """Checks that prompts leave room for an answer, in settings with or without retrieval.

    Raises:
        UserError: For prompts that do not.
    """
    settings = [setting for setting in planned.settings if setting.is_retrieved == retrieved]
    encode, template = _encode(planned, processor), planned.template(processor)
    check_prompts(planned.task, settings, encode, planned.config.limit, template)


def _encode(planned: Plan, processor: FlamingoProcessor) -> Check:
    room = processor.tokenizer.model_max_length - planned.max_new_tokens
    return partial(processor.encode, prompt=True, pixels=False, max_length=room)


def with_known_lengths(planned: Plan, processor: FlamingoProcessor) -> Plan:
    """Returns the plan with those of the default numbers of shots that fit, and with the usable records of the support.

    Raises:
        UserError: For prompts that are too long, as far as that is known before similar images are.
    """

    def check(candidate: Plan) -> None:
        check_lengths(candidate, processor, retrieved=False)
        retrieved = [setting for setting in candidate.settings if setting.is_retrieved]
        if retrieved:
            template = candidate.template(processor)
            check_retrieved_prompts(candidate.task, retrieved, _encode(candidate, processor), template)

    return with_usable_support(planned, processor).fitted(check)


def run_evaluation(config: EvaluateConfig) -> None:
    """Evaluates one task in all settings. Rows of other tasks in scores.json stay."""
    carry_out(plan(config))


def carry_out(planned: Plan) -> None:
    """Evaluates a plan whose checkpoint exists."""
    check_config(planned.config)
    checkpoint, output = folders(planned.config)
    use_device(planned.config.device)
    with run_folder(output, as_recorded(planned.config), _run_files(planned.task)) as run:
        rows = _in_folder(run, planned, checkpoint)
    if processes().is_main_process:
        task = planned.task.name
        scores = [score_of(row, f"a score of {task}") for row in rows]
        if scores:
            log.info("%s:\n%s\nIn parentheses: 95%% intervals over the queries.", task, score_table(scores, task))
        else:
            log.info("%s: there is nothing to score: the queries have no references", task)
        _log_differences(output / "differences.json", task)


def _log_differences(file: Path, task: str) -> None:
    """Logs the differences of a task. There is no file where its outputs have no score."""
    differences = []
    if file.exists():
        differences = [difference for difference in read_differences(file) if difference.setting.task == task]
    if differences:
        log.info("%s, differences:\n%s\n%s", table_title(differences), difference_table(differences), note(differences))


def _in_folder(run: Run, planned: Plan, checkpoint: Path) -> list[Row]:
    output = run.output
    # Lengths are checked before the weights are loaded.
    planned = with_known_lengths(planned, _processor_of(checkpoint))
    model, processor, lockstep = evaluated_model(planned.config, checkpoint)
    processor.limit_length(model.config.text_config)
    config, task = planned.config, planned.task
    features = None
    if isinstance(task, RecordTask):
        features = build_features(_features_in(output, config.features), model, processor)
    checksums = contents(checkpoint, model, task)
    if run.has_results and not config.overwrite:
        check_same_checkpoint(output, checksums["checkpoint"])
        keep_other_supports(run, checksums)
    record_rices(run, checksums, config, task, planned.settings)
    run.begin(checksums)
    if isinstance(task, RecordTask):
        planned = planned.fitted(lambda candidate: _index_and_check(candidate, task, features, processor))
    log.info("template of captions: %r", planned.template(processor).text)
    if planned.left_out_controls:
        most, left_out = max(planned.shots), ", ".join(planned.left_out_controls)
        log.info("controls that need more than %d shots are left out: %s", most, left_out)
    if isinstance(task, RowScoredTask):
        task.mark_encoder(fingerprint(model.vision_model))
    engine = FlamingoEngine(model, processor, config.batch_size, features, is_shared=True, lockstep=lockstep)
    with out_of_memory("batch_size"):
        template = planned.template(processor)
        return evaluate(engine, task, planned.settings, output, config, on_save=run.keep, template=template)


def _processor_of(checkpoint: Path) -> FlamingoProcessor:
    processor = FlamingoProcessor.from_pretrained(checkpoint)
    processor.limit_length(FlamingoConfig.from_pretrained(checkpoint).text_config)
    return processor


def _index_and_check(
    planned: Plan, task: RecordTask, features: FeatureStore | None, processor: FlamingoProcessor
) -> None:
    """Finds similar images, and checks the lengths of prompts with them.

    Raises:
        UserError: For prompts that are too long.
    """
    _index_images(planned, task, features)
    check_lengths(planned, processor, retrieved=True)


def _index_images(planned: Plan, task: RecordTask, features: FeatureStore | None) -> None:
    """Finds duplicates and, for retrieval, similar images.

    Duplicates and images that are left out are written as a report.
    """
    near_duplicates = None
    training_records: Sequence[Record] = []
    if planned.config.run is not None:
        training_records = trained_records(Path(planned.config.run), open_shards=features is not None)
    warning = trained_queries_warning(task.name, task.query_records, training_records)
    if warning is not None:
        log.warning(warning)
    if features is not None:
        settings = planned.settings
        retrieved_shots = [one.shots for one in settings if one.is_retrieved and one.text_similarity is None]
        records = list(task.query_records) + list(task.support_records) + list(training_records)
        for of_support in other_support_records(task).values():
            records += of_support
        add_features(features, [image for record in records for image in record.images])
        near_duplicates = task.index(features, max(retrieved_shots, default=0), training_records)
        index_texts(planned.config, task, settings, features)
        for split, pairs in near_duplicates.items():
            example = ""
            if pairs:
                example = f", such as {pairs[0]['query']} and {pairs[0]['image']}"
            log.info("near-duplicates of queries among %s: %d%s", split, len(pairs), example)
    warnings = [] if warning is None else [warning]
    content = {"warnings": warnings, "near_duplicates": near_duplicates, "skipped": task.skipped}
    if PartialState().is_main_process:
        _, output = folders(planned.config)
        report = output / f"images-{_in_file_names(task)}.json"
        write_text(report, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def run_job(job: Job[EvaluateConfig]) -> None:
    """Runs the command."""
    keep_memory()
    config = job.load()
    if config.runs is None:
        run_evaluation(config)
    else:
        evaluate_runs(config)


def evaluate_runs(config: EvaluateConfig) -> None:
    """Evaluates each of several runs.

    Raises:
        UserError: At the end, for the runs that cannot be evaluated.
    """
    problems = Problems()
    for folder in run_folders(config.runs):
        with problems.collected(str(folder)):
            run_evaluation(replace(config, run=str(folder), runs=None))
    problems.report()
