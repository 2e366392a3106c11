"""The folders of many runs -> variants, which differ in more than the seed, and the problems of the other folders."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flamingo.history import read_history
from flamingo.report.averages import main_decoding, mean_over_seeds
from flamingo.results import Score, read_scores
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config

#: Keys of a config that do not define a variant.
_NOT_OF_A_VARIANT = (
    "output",
    "seed",
    "training.seed",
    "evaluate",
    "objective",
    "variant",
    "variant.name",
    "variant.paper",
    "features.folder",
    "contents",
)

#: Task, shots and metric.
ScoreKey = tuple[str, int, str]


@dataclass(frozen=True)
class EvaluatedRun:
    """A run that was trained and evaluated, or an evaluation in a folder of its own.

    Scores are averaged over the evaluation's own seeds.
    """

    folder: Path
    #: That of the training; empty for an evaluation in a folder of its own.
    config: dict[str, Any]
    #: The overrides of its command line or sweep.
    overrides: tuple[str, ...]
    #: That of the training; 0 for an evaluation in a folder of its own.
    seed: int
    #: The plain ones.
    scores: dict[ScoreKey, float]
    #: Those of all settings.
    means: tuple[Score, ...]


@dataclass(frozen=True)
class Variant:
    """Runs that differ only in their seed, and the score of the counterpart in the paper, if any."""

    name: str
    runs: tuple[EvaluatedRun, ...]
    paper: float | None


def runs_below(folder: Path) -> list[Path]:
    """Returns the folders of runs in a folder at any depth, or the folder itself if it is a run's or has none.

    Hidden folders and links to folders are skipped.
    """
    runs: list[Path] = []
    stack = [folder]
    while stack:
        current = stack.pop()
        if (current / "config.yaml").is_file() or (current / "failure.txt").is_file():
            runs.append(current)
            continue
        for entry in current.iterdir():
            if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
                stack.append(entry)
    return sorted(runs) or [folder]


def read_run(folder: Path) -> EvaluatedRun:
    """Returns a run with its scores, or an evaluation in a folder of its own: one with scores and without a config.

    Raises:
        UserError: For a run that failed or is not finished; the error has the number of steps done.
    """
    if (folder / "failure.txt").is_file():
        raise UserError(f"failed: {(folder / 'failure.txt').read_text(encoding='utf-8').strip()}")
    if not (folder / "config.yaml").is_file():
        if not (folder / "scores.json").is_file():
            raise UserError("no run: there is no config.yaml")
        means = mean_over_seeds(read_scores(folder / "scores.json"))
        return EvaluatedRun(folder, {}, (), 0, _plain_scores(means), tuple(means))
    config = read_config(folder / "config.yaml")
    if not (folder / "checkpoint").exists():
        history = read_history(folder / "history.jsonl") if (folder / "history.jsonl").is_file() else []
        last_step = history[-1]["step"] if history else 0
        steps = config.get("training", {}).get("steps", "?")
        raise UserError(f"not finished: {last_step} of {steps} steps")
    if not (folder / "scores.json").is_file():
        raise UserError("not evaluated: there is no scores.json")
    means = mean_over_seeds(read_scores(folder / "scores.json"))
    training = config.get("training", {})
    return EvaluatedRun(folder, config, _overrides(folder), training["seed"], _plain_scores(means), tuple(means))


def _overrides(folder: Path) -> tuple[str, ...]:
    """Returns the overrides that the run was started with; empty if they are not recorded."""
    file = folder / "overrides.yaml"
    if not file.is_file():
        return ()
    overrides = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tuple(str(override) for override in overrides)


def _plain_scores(scores: Sequence[Score]) -> dict[ScoreKey, float]:
    """Returns the values of settings without a control, with random demonstrations and the task's main decoding."""
    plain = [score for score in scores if not score.setting.series]
    values = {}
    for task in dict.fromkeys(score.setting.task for score in plain):
        of_task = [score for score in plain if score.setting.task == task]
        decoding = main_decoding(score.setting.decoding for score in of_task)
        for score in of_task:
            # The spread over orders is not a score of the model.
            if score.setting.decoding == decoding and not score.metric.endswith("_order_std"):
                values[task, score.setting.shots, score.metric] = score.value
    return values


def read_runs(folders: Iterable[Path]) -> tuple[list[Variant], dict[str, str]]:
    """Returns variants in the order of the folders, and folder -> the reason why it is left out, missing or incomplete.

    The name of a variant is its config's ``variant.name``. Otherwise it is the difference between variants: the
    overrides, or all differing keys of the config if the overrides do not distinguish them. A single run without
    overrides of its own has the name of its folder. So has an evaluation in a folder of its own, which is a variant of
    a single run.
    """
    groups, problems = _grouped(folders)
    names = _names(groups)
    variants = []
    for name, runs in zip(names, groups, strict=True):
        paper = _variant_section(runs[0].config).get("paper")
        runs_by_seed = tuple(sorted(runs, key=lambda run: run.seed))
        variants.append(Variant(name, runs_by_seed, paper))
    problems |= _missing_scores(groups)
    problems |= _missing_seeds(variants)
    return variants, problems


def read_variants(folders: Iterable[Path], baseline: str | None = None) -> tuple[list[Variant], dict[str, str]]:
    """Returns the variants, the baseline first, and folder -> the reason why it is left out, missing or incomplete.

    Args:
        folders: The folders of the runs.
        baseline: The name of a variant; None: the one called "baseline", otherwise the first.

    Raises:
        UserError: If no run is finished and evaluated, or the baseline is unknown.
    """
    variants, problems = read_runs(folders)
    names = [variant.name for variant in variants]
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
        raise UserError(f"there is no run to compare: {reasons or 'no folder has that name'}")
    if baseline is None:
        baseline = "baseline" if "baseline" in names else names[0]
    if baseline not in names:
        raise UserError(f"the baseline {baseline!r} is not among the variants: {'; '.join(names)}")
    variants.sort(key=lambda variant: variant.name != baseline)
    return variants, problems


def _grouped(folders: Iterable[Path]) -> tuple[list[list[EvaluatedRun]], dict[str, str]]:
    """Returns runs whose configs differ only in the seed, and folder -> the reason why it is left out."""
    problems: dict[str, str] = {}
    groups: dict[str, list[EvaluatedRun]] = {}
    for folder in folders:
        try:
            run = read_run(folder)
        except UserError as error:
            problems[str(folder)] = str(error)
            continue
        key = json.dumps(_flatten(run.config), sort_keys=True) if run.config else str(folder)
        group = groups.setdefault(key, [])
        twins = [other for other in group if other.seed == run.seed]
        if twins:
            problems[str(folder)] = f"left out: the same config and seed as {twins[0].folder}"
        else:
            group.append(run)
    return list(groups.values()), problems


def _missing_scores(groups: Sequence[Sequence[EvaluatedRun]]) -> dict[str, str]:
    """Returns the runs that lack scores which other runs have."""
    all_keys: set[ScoreKey] = set()
    for runs in groups:
        for run in runs:
            all_keys.update(run.scores)
    problems = {}
    for runs in groups:
        for run in runs:
            missing = sorted(all_keys - run.scores.keys())
            if missing:
                task, shots, metric = missing[0]
                problems[str(run.folder)] = (
                    f"incomplete: lacks {len(missing)} of {len(all_keys)} scores, among them {metric} of {task} "
                    f"at {shots} shots"
                )
    return problems


def _missing_seeds(variants: Sequence[Variant]) -> dict[str, str]:
    """Returns the variants that lack seeds which other variants have."""
    trained = [variant for variant in variants if variant.runs[0].config]
    all_seeds: set[int] = set()
    for variant in trained:
        all_seeds.update(run.seed for run in variant.runs)
    problems = {}
    for variant in trained:
        seeds_of_variant = {run.seed for run in variant.runs}
        missing = sorted(all_seeds - seeds_of_variant)
        if missing:
            seeds = ", ".join(str(seed) for seed in missing)
            problems[variant.name] = f"missing: seed {seeds}, which other variants have"
    return problems


def _variant_section(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("variant") or {}


def _names(groups: Sequence[Sequence[EvaluatedRun]]) -> list[str]:
    """Returns the names of trained variants and of the folders of evaluations; of a repeated name the whole path."""
    names_of_trained = _names_of_trained([group for group in groups if group[0].config])
    trained_names = iter(names_of_trained)
    folders = [group[0].folder.resolve() for group in groups if not group[0].config]
    taken = Counter(names_of_trained + [folder.name for folder in folders])
    names = []
    for group in groups:
        folder = group[0].folder.resolve()
        if group[0].config:
            names.append(next(trained_names))
        else:
            names.append(folder.name if taken[folder.name] == 1 else str(folder))
    return names


def _names_of_trained(groups: Sequence[Sequence[EvaluatedRun]]) -> list[str]:
    """Returns the names in the configs of variants, otherwise the differences between the variants."""
    runs = [group[0] for group in groups]
    descriptions = _differing_overrides(runs)
    for number, group in enumerate(groups):
        if descriptions.count("") == 1 and descriptions[number] == "" and len(group) == 1:
            descriptions[number] = group[0].folder.name
    if "" in descriptions or len(set(descriptions)) < len(runs):
        descriptions = _differing_keys([run.config for run in runs])
    names = []
    for run, description in zip(runs, descriptions, strict=True):
        name = _variant_section(run.config).get("name")
        names.append(description if name is None else str(name))
    return names if len(set(names)) == len(names) else descriptions


def _differing_overrides(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns the overrides of each run that not all runs have."""
    common = set(runs[0].overrides).intersection(*(run.overrides for run in runs)) if runs else set()
    descriptions = []
    for run in runs:
        own = []
        for override in run.overrides:
            key = override.partition("=")[0].lstrip("+~")
            if override not in common and key not in _NOT_OF_A_VARIANT:
                own.append(override)
        descriptions.append(", ".join(own))
    return descriptions


def _differing_keys(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the values of the differing keys of each config."""
    flat_configs = [_flatten(config) for config in configs]
    keys: dict[str, None] = {}
    for flat in flat_configs:
        keys.update(dict.fromkeys(flat))
    differing = []
    for key in keys:
        values = {json.dumps(flat.get(key)) for flat in flat_configs}
        if len(values) > 1:
            differing.append(key)
    descriptions = []
    for flat in flat_configs:
        values_by_key = ", ".join(f"{key}={flat.get(key, 'absent')}" for key in differing)
        descriptions.append(values_by_key or "all runs alike")
    return descriptions


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns ``a.b.c`` -> value, without the keys that do not define a variant."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in _NOT_OF_A_VARIANT:
            continue
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
