"""The folders of many runs -> variants: what differs in more than the seed; and what is the matter with the others."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.report.averages import main_decoding, mean_over_seeds
from flamingo.results import Score, read_history, read_scores
from flamingo.utils.errors import UserError
from flamingo.utils.run_folder import read_config

#: Keys of a config that say nothing of what was trained.
_NOT_OF_A_VARIANT = ("output", "seed", "training.seed", "evaluate", "objective", "features.folder", "contents")


@dataclass(frozen=True)
class Run:
    """A run that was trained and evaluated: its plain scores, averaged over the evaluation's own seeds."""

    folder: Path
    config: dict[str, Any]
    seed: int
    scores: dict[tuple[str, int, str], float]
    """By task, shots and metric."""


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seed alone; what the config says of its counterpart in the paper, if anything."""

    name: str
    runs: tuple[Run, ...]
    paper: float | None


def runs_below(folder: Path) -> list[Path]:
    """Return the folder, if it is a run's, or else the runs' folders in it, however deep; itself where there are none.

    Hidden folders and links to folders are passed over.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if (here / "config.yaml").is_file() or (here / "failure.txt").is_file():
            found.append(here)
            continue
        inside = [entry for entry in here.iterdir() if entry.is_dir() and not entry.is_symlink()]
        waiting += [entry for entry in inside if not entry.name.startswith(".")]
    return sorted(found) or [folder]


def read_run(folder: Path) -> Run:
    """Raises UserError, saying how far it came, for a run that failed or is not finished."""
    if (folder / "failure.txt").is_file():
        raise UserError(f"failed: {(folder / 'failure.txt').read_text(encoding='utf-8').strip()}")
    if not (folder / "config.yaml").is_file():
        raise UserError("no run: there is no config.yaml")
    config = read_config(folder / "config.yaml")
    if not (folder / "checkpoint").exists():
        history = read_history(folder / "history.jsonl") if (folder / "history.jsonl").is_file() else []
        steps = config.get("training", {}).get("steps", "?")
        raise UserError(f"not finished: {history[-1]['step'] if history else 0} of {steps} steps")
    if not (folder / "scores.json").is_file():
        raise UserError("not evaluated: there is no scores.json")
    means = [score for score in mean_over_seeds(read_scores(folder / "scores.json")) if not score.setting.series]
    return Run(folder, config, config["training"]["seed"], {key: score.value for key, score in _plain(means)})


def _plain(scores: Sequence[Score]) -> Iterator[tuple[tuple[str, int, str], Score]]:
    for task in dict.fromkeys(score.setting.task for score in scores):
        own = [score for score in scores if score.setting.task == task]
        decoding = main_decoding(score.setting.decoding for score in own)
        for score in own:
            # The spread over orders is no score of the model.
            if score.setting.decoding == decoding and not score.metric.endswith("_order_std"):
                yield (task, score.setting.shots, score.metric), score


def read_runs(folders: Iterable[Path]) -> tuple[list[Variant], dict[str, str]]:
    """Variants in the order of the folders; and by folder what is left out, missing or incomplete, with the reason.

    Variants are called as their config's ``variant.name`` says, or else by all that differs among them.
    """
    problems: dict[str, str] = {}
    groups: dict[str, list[Run]] = {}
    for folder in folders:
        try:
            run = read_run(folder)
        except UserError as error:
            problems[str(folder)] = str(error)
            continue
        group = groups.setdefault(json.dumps(_flat(run.config), sort_keys=True), [])
        if twin := next((other for other in group if other.seed == run.seed), None):
            problems[str(folder)] = f"left out: the same config and seed as {twin.folder}"
        else:
            group.append(run)
    everything = {key for runs in groups.values() for run in runs for key in run.scores}
    for run in (run for runs in groups.values() for run in runs):
        if lacking := sorted(everything - run.scores.keys()):
            task, shots, metric = lacking[0]
            problems[str(run.folder)] = (
                f"incomplete: lacks {len(lacking)} of {len(everything)} scores, among them {metric} of {task} "
                f"at {shots} shots"
            )
    names = _names([runs[0].config for runs in groups.values()])
    variants = [
        Variant(name, tuple(sorted(runs, key=lambda run: run.seed)), (runs[0].config.get("variant") or {}).get("paper"))
        for name, runs in zip(names, groups.values(), strict=True)
    ]
    seeds = sorted({run.seed for variant in variants for run in variant.runs})
    for variant in variants:
        if absent := sorted(set(seeds) - {run.seed for run in variant.runs}):
            problems[variant.name] = f"missing: seed {', '.join(map(str, absent))}, which other variants have"
    return variants, problems


def _names(configs: Sequence[dict[str, Any]]) -> list[str]:
    named = [(config.get("variant") or {}).get("name") for config in configs]
    if None not in named and len(set(named)) == len(named):
        return [str(name) for name in named]
    flat = [_flat(config) for config in configs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in flat}) > 1]
    return [", ".join(f"{key}={config.get(key, 'absent')}" for key in differing) or "all runs alike" for config in flat]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``a.b.c`` -> value, without what is not of a variant."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name not in _NOT_OF_A_VARIANT:
            flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
