"""Runs of several variants -> the paired difference of each variant to the baseline in each setting.

The spread of a score between trainings is pooled over the variants, separately for each setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamingo.difference_rows import BASELINE, TRAININGS, Difference
from flamingo.evaluation.comparisons import Comparison, difference_row, with_marks
from flamingo.evaluation.metrics import METRICS
from flamingo.evaluation.metrics.corpus import Captions, corpus_statistics
from flamingo.evaluation.metrics.resampling import Statistic, mean
from flamingo.evaluation.statistics import Term, resample
from flamingo.headline_metrics import headlines
from flamingo.results import Prediction, Score, SettingOfTask, read_predictions, read_scores
from flamingo.utils.errors import UserError
from flamingo.utils.seed_spread import pooled_deviation

Runs = Mapping[str, Mapping[int, Path]]
"""Variant -> seed of the training -> the folder of the run."""


@dataclass(frozen=True)
class Asked:
    """What a run was asked in a task."""

    folder: Path
    #: The references of each query.
    references: dict[str, tuple[str, ...]]
    #: Chooses the tokens that a corpus metric compares; None for other metrics.
    language: str | None


@dataclass(frozen=True)
class RunScore:
    """The score of a run in a setting: a statistic for each seed of the evaluation."""

    variant: str
    seed: int
    statistics: tuple[Statistic, ...]


def run_differences(runs: Runs, baseline: str) -> list[Difference]:
    """Returns the difference of each variant to the baseline, in each setting that both have.

    Scores are those of the task's headline metric. A run's score is the mean over the seeds of its evaluation. p-values
    are adjusted for all comparisons of a task in settings without control, and apart from them for those in controls.

    Args:
        runs: Folders with ``scores.json`` and ``predictions.jsonl``.
        baseline: The variant that is subtracted.

    Raises:
        UserError: If a file cannot be read, or the queries, references or languages of runs differ.
    """
    scores_of = {}
    for by_seed in runs.values():
        for folder in by_seed.values():
            scores_of[folder] = read_scores(folder / "scores.json")
    metrics = _headline_metrics(scores_of)
    first_asked: dict[str, Asked] = {}
    of_settings: dict[SettingOfTask, list[RunScore]] = {}
    for variant in [baseline] + [name for name in runs if name != baseline]:
        for seed, folder in runs[variant].items():
            for setting, statistics in _statistics(folder, scores_of[folder], metrics, first_asked).items():
                of_settings.setdefault(setting, []).append(RunScore(variant, seed, tuple(statistics)))
    families: dict[tuple[str, bool], list[Difference]] = {}
    for setting, of_runs in of_settings.items():
        family = families.setdefault((setting.task, setting.control is not None), [])
        family += _setting_rows(setting, of_runs, baseline, metrics[setting.task])
    differences = []
    for family in families.values():
        differences += with_marks(family)
    return differences


def _headline_metrics(scores_of: Mapping[Path, Sequence[Score]]) -> dict[str, str]:
    """Returns for each task the headline metric among those that the predictions of all its runs determine."""
    common: dict[str, list[str]] = {}
    for folder, scores in scores_of.items():
        for task, metrics in _metrics_of_predictions(folder, scores).items():
            common[task] = [metric for metric in common.get(task, metrics) if metric in metrics]
    return {task: headlines(metrics)[0] for task, metrics in common.items() if metrics}


def _metrics_of_predictions(folder: Path, scores: Sequence[Score]) -> dict[str, list[str]]:
    """Returns for each task of a run its metrics of single outputs and of captions.

    Metrics that also read rankings or images, such as ROC AUC and CLIPScore, are left out.
    """
    of_outputs: set[tuple[str, str]] = set()
    for prediction in read_predictions(folder / "predictions.jsonl"):
        of_outputs.update((prediction.setting.task, metric) for metric in prediction.scores)
    of_tasks: dict[str, list[str]] = {}
    for score in scores:
        metrics = of_tasks.setdefault(score.setting.task, [])
        if score.metric in METRICS or (score.setting.task, score.metric) in of_outputs:
            metrics.append(score.metric)
    return of_tasks


def _statistics(
    folder: Path, scores: Sequence[Score], metrics: Mapping[str, str], first_asked: dict[str, Asked]
) -> dict[SettingOfTask, list[Statistic]]:
    """Returns the statistics of a run in each setting, one for each seed of the evaluation.

    Args:
        folder: The folder of the run.
        scores: The scores of the run.
        metrics: The metric of each task.
        first_asked: What the first run of each task was asked, and all others must be asked. A new task is added.

    Raises:
        UserError: If the queries, references or languages differ.
    """
    languages: dict[tuple[SettingOfTask, int], str | None] = {}
    for score in scores:
        if score.metric == metrics.get(score.setting.task):
            languages[score.setting, score.seeds[0]] = score.language
    predictions: dict[tuple[SettingOfTask, int], dict[str, Prediction]] = {}
    for prediction in read_predictions(folder / "predictions.jsonl"):
        key = (prediction.setting, prediction.seed)
        if key in languages:
            predictions.setdefault(key, {})[prediction.query] = prediction
    statistics: dict[SettingOfTask, list[Statistic]] = {}
    for (setting, seed), language in languages.items():
        of_setting = predictions.get((setting, seed), {})
        references = {query: prediction.references for query, prediction in of_setting.items()}
        asked = Asked(folder, references, language)
        first = first_asked.setdefault(setting.task, asked)
        _check_same(asked, first, setting.task)
        in_order = [of_setting[query] for query in first.references]
        statistic = _statistic(in_order, metrics[setting.task], language)
        statistics.setdefault(setting, []).append(statistic)
    return statistics


def _check_same(asked: Asked, first: Asked, task: str) -> None:
    """Checks that a run was asked the queries of the first run, with the same references.

    Raises:
        UserError: If not; the error names the first query that differs.
    """
    if asked.language != first.language:
        raise UserError(
            f"the language of {task} is {asked.language} in {asked.folder} and {first.language} in {first.folder}: "
            "they do not compare"
        )
    for query, references in first.references.items():
        if query not in asked.references:
            raise UserError(
                f"{asked.folder} lacks the query {query!r} of {task}, which {first.folder} has: they do not compare"
            )
        if asked.references[query] != references:
            raise UserError(
                f"the references of query {query!r} of {task} are {list(asked.references[query])} in {asked.folder} "
                f"and {list(references)} in {first.folder}: they do not compare"
            )
    for query in asked.references:
        if query not in first.references:
            raise UserError(
                f"{asked.folder} has the query {query!r} of {task}, which {first.folder} lacks: they do not compare"
            )


def _statistic(predictions: Sequence[Prediction], metric: str, language: str | None) -> Statistic:
    if metric not in METRICS:
        return mean([prediction.scores.get(metric) for prediction in predictions])
    outputs = [prediction.output for prediction in predictions]
    references = [prediction.references for prediction in predictions]
    [statistics] = corpus_statistics([metric], [Captions(outputs, references, language or "en")])
    return statistics[metric]


def _setting_rows(setting: SettingOfTask, of_runs: Sequence[RunScore], baseline: str, metric: str) -> list[Difference]:
    """Returns the difference of each variant to the baseline in a setting."""
    statistics: list[Statistic] = []
    columns_of_runs = []
    runs_of: dict[str, list[int]] = {}
    for number, run in enumerate(of_runs):
        columns_of_runs.append(range(len(statistics), len(statistics) + len(run.statistics)))
        statistics += run.statistics
        runs_of.setdefault(run.variant, []).append(number)
    scores = resample(statistics).means(columns_of_runs)
    groups = [scores.observed[numbers].tolist() for numbers in runs_of.values()]
    deviation, freedom = pooled_deviation(groups)
    rows = []
    for variant, numbers in runs_of.items():
        if variant == baseline or baseline not in runs_of:
            continue
        terms = (Term(1.0, tuple(numbers)), Term(-1.0, tuple(runs_of[baseline])))
        seeds = {of_runs[number].seed for number in numbers + runs_of[baseline]}
        comparison = Comparison(
            kind=BASELINE,
            setting=setting,
            subtracted=setting,
            shots=(setting.shots, setting.shots),
            terms=terms,
            seeds=tuple(sorted(seeds)),
            variant=variant,
            baseline=baseline,
        )
        rows.append(difference_row(comparison, scores, metric, deviation, freedom, TRAININGS))
    return rows
